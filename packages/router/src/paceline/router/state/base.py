"""What a state store is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from paceline.router.statistics import Observation, Statistics


class StoreError(Exception):
    """The store can't be used now. The message is one line: what is wrong with what, and what to do."""


class StateStore(Protocol):
    """Keeps `Statistics`, possibly for several routers at once.

    Every method raises StoreError if the store can't be used; `open` may be called again after that.
    """

    async def open(self, known: Statistics) -> Statistics:
        """Gets the store ready; returns what it holds.

        Args:
            known: what the caller knows already; arms that the store lacks (it was lost) are put into it.
        """
        ...

    async def apply(self, observations: Sequence[Observation], discount: float) -> Statistics:
        """Adds observations in their order, all or none, as `Statistics.learn` would; returns what it then
        holds.

        The sums are changed where they lie, not read and written back, so routers that share a store lose
        nothing of each other's.
        """
        ...

    async def close(self) -> None: ...
