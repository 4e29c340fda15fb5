"""One session at work on one model: what the model shall run next, and the tree that comes of it. Sans-model.

    while (rows := session.next_rows(budget, times)) is not None:
        session.absorb(logits of rows)
    candidates = session.candidates(budget)

A commit may come at any moment (`observe`): what the tree has on the text's way stays, keys and values included, the
rest goes. So a tree that was grown ahead of the commit is there when the commit comes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

from paceline.drafter.features import Features
from paceline.drafter.growing import GrowingTree, Growth
from paceline.drafter.live_tree import ROOT, LiveTree
from paceline.drafter.models.base import KVCache, Rows, Scores
from paceline.drafter.reading import Reader
from paceline.drafter.stopping.base import Times
from paceline.drafter.strategies.base import ROOT as CONTEXT
from paceline.drafter.strategies.base import Budget, Candidates, Proposer
from paceline.drafter.vocabulary.base import Bridge

MAX_CHUNK = 256  # tokens of a context run in one pass: other sessions wait for it
MAX_GUESSES = 12  # tokens of a cheaper strategy that are checked in one pass


class ModelSession:
    """The state of one session.

    Args:
        bridge: of the session, with its context.
        reader: of the session.
        cache: empty.
        growth: how trees grow.
        length: of the context in target tokens.
        max_length: positions that the model has.
        new_guesser: makes a cheaper strategy for the context in draft tokens, which it is given; its candidates are
            checked by the model, which else thinks of its own one by one. None: there is none.
    """

    lasting: ClassVar[bool] = True  # what was thought ahead is there when the commit comes

    def __init__(
        self,
        bridge: Bridge,
        reader: Reader,
        cache: KVCache,
        growth: Growth,
        length: int,
        max_length: int,
        new_guesser: Callable[[list[int]], Proposer] | None = None,
    ) -> None:
        self.length = length
        self._bridge = bridge
        self._reader = reader
        self._cache = cache
        self._growing = GrowingTree(bridge, reader, growth)
        self._max_length = max_length
        self._context = list(bridge.context)
        self._guesser = new_guesser(self._context) if new_guesser is not None else None
        self._num_cached = 0  # tokens of the context that are the cache's first rows
        self._guesses = Candidates()  # of the rows that are out

    @property
    def tree(self) -> LiveTree:
        return self._growing.tree

    @property
    def num_rows(self) -> int:
        """That the cache holds."""
        return len(self._cache)

    @property
    def told(self) -> Features | None:
        """Of the target's states nothing."""
        return None

    @property
    def drawn(self) -> bool:
        """Whether the target draws its tokens."""
        return self._growing.drawn

    @property
    def beyond_reach(self) -> bool:
        """The model can't draft here: there is no text that it could go on from, or too much."""
        return not self._context or len(self._context) >= self._max_length

    # The text goes on.

    def observe(self, tokens: Sequence[int], features: Features | None = None) -> None:
        """Target tokens committed; features are for heads. Not between `next_rows` and `absorb`."""
        self._bridge.observe(tokens)
        self.length += len(tokens)
        before, now = self._context.copy(), list(self._bridge.context)
        self._context[:] = now
        if now[: len(before)] != before:
            self._cut(_num_common(before, now))
        elif self._num_cached < len(before):
            self._growing.clear()  # the context was still being read
        else:
            self._follow(now[len(before) :])

    def forget(self) -> None:
        """Gives its rows back; the context will be run again if the session goes on."""
        self._cut(0)

    def _cut(self, num_tokens: int) -> None:
        """Only that much of what is cached is still the text."""
        self._num_cached = min(self._num_cached, num_tokens)
        self._cache.keep(range(self._num_cached))
        self._growing.clear()

    def _follow(self, tokens: list[int]) -> None:
        """The text went on from the root with these draft tokens."""
        if not tokens:
            return  # as long as a character is not complete
        tree = self.tree
        self._growing.learn(tokens)
        depth = len(tokens)
        while (node := tree.descend(tokens[:depth])) is None:
            depth -= 1
        # Inner nodes of a path are expanded, so they have rows; its end may have none.
        rows = list(range(self._num_cached))
        rows += [tree.nodes[index].row for index in tree.path(node) if tree.nodes[index].row >= 0]
        self._num_cached = len(rows)
        if self._num_cached == len(self._context):
            tree.reroot(node)
            for below in tree.nodes[1:]:
                if below.row >= 0:
                    rows.append(below.row)
                    below.row = len(rows) - 1
        else:
            self._growing.clear()
        self._cache.keep(rows)

    # The model is asked.

    def next_rows(self, budget: Budget, times: Times, ahead: bool = False) -> Rows | None:
        """What to run next; None if the tree is as large as pays, for the draft that is due or, `ahead`, beyond it."""
        if self.beyond_reach:
            return None
        if self._num_cached < len(self._context):
            return self._context_rows(budget)
        max_depth = self._max_length - len(self._context)
        nodes = self._growing.next_nodes(budget, times, ahead, max_depth)
        return self._tree_rows(nodes) if nodes else None

    def _context_rows(self, budget: Budget) -> Rows:
        first = self._num_cached
        tokens = self._context[first : first + MAX_CHUNK]
        complete = first + len(tokens) == len(self._context)
        guesses = Candidates()
        if complete and self._guesser is not None:
            room = min(MAX_GUESSES, budget.max_nodes, self._max_length - len(self._context))
            guesses = self._guesser.draft(Budget(room, min(room, budget.max_depth)))
        self._guesses = guesses
        num_chain, held = len(tokens), len(self._cache)
        assert held == first, "rows of a tree are dropped when its context changes"
        depths = _depths(guesses.parents)
        visible = np.zeros((num_chain + len(guesses), held + num_chain + len(guesses)), dtype=np.bool_)
        visible[:num_chain, : held + num_chain] = np.tri(num_chain, held + num_chain, held, dtype=np.bool_)
        for index, parent in enumerate(guesses.parents):
            row = num_chain + index
            visible[row] = visible[num_chain - 1 if parent == CONTEXT else num_chain + parent]
            visible[row, held + row] = True
        last = len(self._context) - 1
        positions = [*range(first, first + num_chain), *(last + depth for depth in depths)]
        wanted = tuple(range(num_chain - 1, num_chain + len(guesses))) if complete else ()
        return _rows(self._cache, [*tokens, *guesses.tokens], positions, visible, wanted)

    def _tree_rows(self, nodes: Sequence[int]) -> Rows:
        growing, last = self._growing, len(self._context) - 1
        positions = [last + depth for depth in growing.depths(nodes)]
        visible = growing.visible(nodes, self._num_cached, len(self._cache))
        return _rows(self._cache, growing.tokens(nodes), positions, visible, tuple(range(len(nodes))))

    def absorb(self, scores: Scores) -> None:
        """Takes the scores of the rows that `next_rows` gave; the cache holds those rows now."""
        if self._num_cached < len(self._context):
            self._num_cached = min(len(self._context), self._num_cached + MAX_CHUNK)
            if self._num_cached == len(self._context):
                self._absorb_root(scores)
            return
        self._growing.absorb(scores, self.length, len(self._cache))

    def _absorb_root(self, scores: Scores) -> None:
        guesses, tree = self._guesses, self.tree
        depths = _depths(guesses.parents)
        read = self._reader.read(scores, [self.length, *(self.length + depth for depth in depths)])
        tree.expand(ROOT, read[0])
        nodes = {CONTEXT: ROOT}
        for index, (token, parent) in enumerate(zip(guesses.tokens, guesses.parents, strict=True)):
            above = nodes.get(parent)
            successors = tree.nodes[above].successors if above is not None else None
            if above is None or successors is None:
                continue
            ranks = np.flatnonzero(successors.tokens == token)
            if len(ranks):  # else the model thinks little of it
                node = nodes[index] = tree.add(above, int(ranks[0]))
                tree.expand(node, read[1 + index])
                tree.nodes[node].row = self._num_cached + index

    # The draft.

    def candidates(self, budget: Budget, ahead: bool = False) -> Candidates:
        """The best of the tree as it is, in target tokens."""
        return self._growing.candidates(budget, ahead)


def _rows(
    cache: KVCache, tokens: list[int], positions: list[int], visible: np.ndarray, wanted: tuple[int, ...]
) -> Rows:
    return Rows(cache, np.array(tokens, np.int64), np.array(positions, np.int64), visible, wanted)


def _depths(parents: Sequence[int]) -> list[int]:
    depths: list[int] = []
    for parent in parents:
        depths.append(1 if parent == CONTEXT else depths[parent] + 1)
    return depths


def _num_common(left: list[int], right: list[int]) -> int:
    """Length of what two lists have in common at their beginning; they differ near their ends."""
    common = 0
    for ours, theirs in zip(left, right, strict=False):
        if ours != theirs:
            break
        common += 1
    return common
