"""Strategy `hierarchy`: texts from the most local to the most global, the first with a long enough match has the word.

Hierarchy Drafting (Cho et al. 2025), and Ouroboros' pool of phrases from earlier answers (Zhao et al. 2024). This
session's text comes first, since what was said here is said again most often; then earlier sessions' of the scope;
then the datastore, if there is one. Where `suffix` and `retrieval` side by side make two trees that share a budget,
this makes one of a single text, which suits verifiers that take few candidates.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from paceline.drafter.datastore.store import Datastore
from paceline.drafter.strategies.base import Budget, Candidates, Commit, Context, ScopeBounds
from paceline.drafter.strategies.matching import LENGTH_BINS, SHARE_BINS, View, grow_tree, match_length
from paceline.drafter.strategies.retrieval import datastore_matches, usable_datastore
from paceline.drafter.strategies.suffix import Suffix, SuffixProposer

ENOUGH = 3  # tokens of a match that need no more global text beside them
_LIKELY_SHARE = 3  # share bins from here on are one, those below another: three sources share the bins


class Hierarchy:
    """The earlier texts of one memory scope, and what is common to all scopes."""

    commit_top_k: ClassVar[int] = 0
    couples: ClassVar[bool] = True

    def __init__(self, bounds: ScopeBounds) -> None:
        self._texts = Suffix(bounds)
        self._datastore = usable_datastore(bounds)

    def begin(self, context: Context) -> HierarchyProposer:
        return HierarchyProposer(self._texts.begin(context), self._datastore, context)

    def aside(self) -> Hierarchy:
        """Itself: only the end of a session adds text."""
        return self

    @property
    def num_remembered(self) -> int:
        return self._texts.num_remembered


class HierarchyProposer:
    """One session. `texts` indexes its own text and those of its scope."""

    def __init__(self, texts: SuffixProposer, datastore: Datastore | None, context: Context) -> None:
        self._texts = texts
        self._datastore = datastore
        self._context = context

    def observe(self, commit: Commit) -> None:
        self._texts.observe(commit)

    def draft(self, budget: Budget) -> Candidates:
        self._texts.index()
        level, views = choose(self._levels())
        tree = grow_tree(views, budget)
        tree.bins = [_bin(level, kind) for kind in tree.bins]
        return tree

    def end(self) -> None:
        self._texts.end()

    def _levels(self) -> Iterator[list[View]]:
        """Matches from local to global; what is not needed is not looked up."""
        yield [self._texts.own_match()]
        yield self._texts.earlier_matches()
        yield datastore_matches(self._datastore, self._context)


def choose(levels: Iterator[list[View]]) -> tuple[int, list[View]]:
    """The first level with a match of ENOUGH tokens, or else the one with the longest; its index and its views."""
    best: tuple[int, list[View]] = (0, [])
    best_length = 0
    for level, views in enumerate(levels):
        length = max(map(match_length, views), default=0)
        if length > best_length:
            best, best_length = (level, views), length
        if length >= ENOUGH:
            break
    return best


def _bin(level: int, kind: int) -> int:
    length_bin, share_bin = divmod(kind, SHARE_BINS)
    return (level * LENGTH_BINS + length_bin) * 2 + (share_bin >= _LIKELY_SHARE)
