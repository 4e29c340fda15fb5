"""What a state store is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from paceline.router.evidence import Knowledge, Shape


class StoreError(Exception):
    """The store can't be used now. The message is one line: what is wrong with what, and what to do."""


class StoreLost(StoreError):
    """The store has less than the caller has read there; `open` puts back what the caller knows."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one router learnt since its last batch.

    Attributes:
        router: its id, another one for each start of a process.
        number: 1, 2, 3, … A batch that is sent again keeps its number and content.
        learnt: at least one model's evidence.
        seen: segments of models that the router has read in the store. A store that has less has lost something, and
            must not take the batch before that was put back.
    """

    router: str
    number: int
    learnt: Knowledge
    seen: Mapping[str, int] = field(default_factory=dict)


class StateStore(Protocol):
    """Keeps evidence, possibly of several routers at once.

    Every method raises StoreError if the store can't be used; `open` may be called again after that.
    """

    async def open(self, shape: Shape, known: Knowledge) -> Knowledge:
        """Gets the store ready for evidence of one shape; returns what it holds of that.

        Args:
            known: what the caller read here before. A model that the store has less segments of (it was lost, or is an
                older copy) is put back as the caller knows it.
        """
        ...

    async def apply(self, batch: Batch) -> Knowledge:
        """Adds a batch on top of what is there, all or none of it, unless it was added before; returns what is then
        known of its models.

        Sums are changed where they lie, in one transaction, so routers that share a store lose nothing of each other's.
        A batch whose answer was lost is simply sent again: its number tells. Raises StoreLost, too.
        """
        ...

    async def read(self) -> Knowledge:
        """What it holds now: for learning from other routers while this one has nothing to tell."""
        ...

    async def close(self) -> None: ...
