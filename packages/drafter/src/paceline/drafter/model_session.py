"""One session at work on one model: what the model shall run next, and the tree that comes of it. Sans-model.

    while (rows := session.next_rows(budget, times)) is not None:
        session.absorb(logits of rows)
    candidates = session.candidates(budget)

A commit may come at any moment (`observe`): what the tree has on the text's way stays, keys and values included, the
rest goes. So a tree that was grown ahead of the commit is there when the commit comes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from paceline.drafter.live_tree import ROOT, LiveTree
from paceline.drafter.models.base import KVCache, Logits, Rows
from paceline.drafter.reading import Reader
from paceline.drafter.stopping.base import StoppingRule, Times
from paceline.drafter.strategies.base import ROOT as CONTEXT
from paceline.drafter.strategies.base import Budget, Candidates, Proposer
from paceline.drafter.trees.base import TreePolicy
from paceline.drafter.vocabulary.base import Bridge

MAX_CHUNK = 256  # tokens of a context run in one pass: other sessions wait for it
MAX_GUESSES = 12  # tokens of a cheaper strategy that are checked in one pass


@dataclass(frozen=True, slots=True)
class Growth:
    """How trees grow.

    Attributes:
        policy: for the draft that a commit asks for.
        ahead: for what is thought beyond it, until the next commit.
        rule: what is not worth thinking on from.
    """

    policy: TreePolicy
    ahead: TreePolicy
    rule: StoppingRule


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
        self.tree = LiveTree()
        self.length = length
        self._bridge = bridge
        self._reader = reader
        self._cache = cache
        self._growth = growth
        self._max_length = max_length
        self._context = list(bridge.context)
        self._guesser = new_guesser(self._context) if new_guesser is not None else None
        self._num_cached = 0  # tokens of the context that are the cache's first rows
        self._running: list[int] = []  # nodes whose rows are out
        self._guesses = Candidates()  # of the rows that are out

    @property
    def num_rows(self) -> int:
        """That the cache holds."""
        return len(self._cache)

    @property
    def drawn(self) -> bool:
        """Whether the target draws its tokens."""
        return self._reader.sampling.temperature > 0.0

    @property
    def beyond_reach(self) -> bool:
        """The model can't draft here: there is no text that it could go on from, or too much."""
        return not self._context or len(self._context) >= self._max_length

    # The text goes on.

    def observe(self, tokens: Sequence[int]) -> None:
        """Target tokens committed. Not between `next_rows` and `absorb`."""
        self._bridge.observe(tokens)
        self.length += len(tokens)
        before, now = self._context.copy(), list(self._bridge.context)
        self._context[:] = now
        if now[: len(before)] != before:
            self._cut(_num_common(before, now))
        elif self._num_cached < len(before):
            self.tree = LiveTree()  # the context was still being read
        else:
            self._follow(now[len(before) :])

    def forget(self) -> None:
        """Gives its rows back; the context will be run again if the session goes on."""
        self._cut(0)

    def _cut(self, num_tokens: int) -> None:
        """Only that much of what is cached is still the text."""
        self._num_cached = min(self._num_cached, num_tokens)
        self._cache.keep(range(self._num_cached))
        self.tree = LiveTree()

    def _follow(self, tokens: list[int]) -> None:
        """The text went on from the root with these draft tokens."""
        if not tokens:
            return  # as long as a character is not complete
        tree = self.tree
        self._learn(tokens)
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
            self.tree = LiveTree()
        self._cache.keep(rows)

    def _learn(self, tokens: list[int]) -> None:
        tree, at = self.tree, ROOT
        for token in tokens:
            found = None
            for child in tree.nodes[at].children:
                right = tree.nodes[child].token == token
                self._growth.rule.learn(tree, child, right)
                found = child if right else found
            if found is None:
                return
            at = found

    # The model is asked.

    def next_rows(self, budget: Budget, times: Times, ahead: bool = False) -> Rows | None:
        """What to run next; None if the tree is as large as pays, for the draft that is due or, `ahead`, beyond it."""
        if self.beyond_reach:
            return None
        if self._num_cached < len(self._context):
            return self._context_rows(budget)
        policy = self._growth.ahead if ahead else self._growth.policy
        while grown := policy.grow(self.tree, budget):
            nodes = [node for node in grown if self._pays(node, times)]
            if nodes:
                return self._tree_rows(nodes)
        return None

    def _pays(self, node: int, times: Times) -> bool:
        """Whether to think on from a node; if not, it is closed."""
        beyond = len(self._context) + self.tree.nodes[node].depth > self._max_length
        if beyond or self._growth.rule.stops(self.tree, node, times):
            self.tree.close(node)
            return False
        return True

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

    def _tree_rows(self, nodes: list[int]) -> Rows:
        self._running = nodes
        held, tree = len(self._cache), self.tree
        visible = np.zeros((len(nodes), held + len(nodes)), dtype=np.bool_)
        visible[:, : self._num_cached] = True
        for index, node in enumerate(nodes):
            visible[index, held + index] = True
            for above in tree.path(tree.nodes[node].parent):
                visible[index, tree.nodes[above].row] = True
        positions = [len(self._context) - 1 + tree.nodes[node].depth for node in nodes]
        tokens = [tree.nodes[node].token for node in nodes]
        return _rows(self._cache, tokens, positions, visible, tuple(range(len(nodes))))

    def absorb(self, logits: Logits) -> None:
        """Takes the logits of the rows that `next_rows` gave; the cache holds those rows now."""
        if self._num_cached < len(self._context):
            self._num_cached = min(len(self._context), self._num_cached + MAX_CHUNK)
            if self._num_cached == len(self._context):
                self._absorb_root(logits)
            return
        first = len(self._cache) - len(self._running)
        depths = [self.tree.nodes[node].depth for node in self._running]
        for index, successors in enumerate(self._reader.read(logits, [self.length + depth for depth in depths])):
            self.tree.expand(self._running[index], successors)
            self.tree.nodes[self._running[index]].row = first + index
        self._running = []

    def _absorb_root(self, logits: Logits) -> None:
        guesses, tree = self._guesses, self.tree
        depths = _depths(guesses.parents)
        read = self._reader.read(logits, [self.length, *(self.length + depth for depth in depths)])
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
        if self.tree.root.successors is None:
            return Candidates()
        policy = self._growth.ahead if ahead else self._growth.policy
        return self._bridge.translate(self.tree, policy.select(self.tree, budget))


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
