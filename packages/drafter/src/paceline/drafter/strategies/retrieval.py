"""Strategy `retrieval`: what followed the last few tokens in a text collected beforehand.

REST (He et al. 2023), RASD (Quan et al. 2025). The datastore is made by `paceline-drafter index` and holds public
text, never a tenant's: documentation, code, answers of the target. Best where answers say what that says; knows
nothing new at the hundredth request.
"""

from __future__ import annotations

from typing import ClassVar

from paceline.drafter.datastore.store import MAX_MATCH, Datastore
from paceline.drafter.strategies.base import Budget, Candidates, Commit, Context, ScopeBounds
from paceline.drafter.strategies.matching import MAX_LEVELS, View, grow_tree


class Retrieval:
    """The datastore, if it was made for the target's tokenizer; all scopes read the same and add nothing."""

    commit_top_k: ClassVar[int] = 0
    couples: ClassVar[bool] = True

    def __init__(self, bounds: ScopeBounds) -> None:
        self._datastore = usable_datastore(bounds)

    def begin(self, context: Context) -> RetrievalProposer:
        return RetrievalProposer(self._datastore, context)

    def aside(self) -> Retrieval:
        """Itself: nothing is ever added."""
        return self

    @property
    def num_remembered(self) -> int:
        return 0


class RetrievalProposer:
    """One session. It keeps nothing: each draft is a few searches from the context's end."""

    def __init__(self, datastore: Datastore | None, context: Context) -> None:
        self._datastore = datastore
        self._context = context

    def observe(self, commit: Commit) -> None:
        """Nothing to do: `draft` reads the context."""

    def draft(self, budget: Budget) -> Candidates:
        return grow_tree(datastore_matches(self._datastore, self._context), budget)

    def end(self) -> None:
        """Nothing to do: the datastore stays as it was made."""


def usable_datastore(bounds: ScopeBounds) -> Datastore | None:
    """The process's datastore, if it has one and its token ids are the target's."""
    datastore = bounds.resources.datastore
    if datastore is not None and datastore.serves(bounds.tokenizer_hash, bounds.vocab_size):
        return datastore
    return None


def datastore_matches(datastore: Datastore | None, context: Context) -> list[View]:
    """The longest match of the context's end in a datastore, and shorter ones; none without a datastore."""
    if datastore is None:
        return []
    recent = context.tokens[-MAX_MATCH:]
    return [(datastore, state, length) for state, length in datastore.matches(recent, MAX_LEVELS)]
