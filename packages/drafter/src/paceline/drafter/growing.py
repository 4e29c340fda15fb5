"""A session's tree as a model grows it: what to think on from next, in which rows, and what came of them. Sans-model.

The same for language models and for heads; sessions differ in what they read of the text, and in what a commit leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paceline.drafter.live_tree import ROOT, LiveTree
from paceline.drafter.models.base import Scores
from paceline.drafter.reading import Reader
from paceline.drafter.stopping.base import StoppingRule, Times
from paceline.drafter.strategies.base import Budget, Candidates
from paceline.drafter.trees.base import TreePolicy
from paceline.drafter.vocabulary.base import Bridge


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


class GrowingTree:
    """The tree below one context.

    Args:
        bridge: of the session.
        reader: of the session.
        growth: how trees grow.
    """

    def __init__(self, bridge: Bridge, reader: Reader, growth: Growth) -> None:
        self.tree = LiveTree()
        self._bridge = bridge
        self.reader = reader
        self.growth = growth
        self._running: list[int] = []  # nodes whose rows are out

    @property
    def drawn(self) -> bool:
        """Whether the target draws its tokens."""
        return self.reader.sampling.temperature > 0.0

    def clear(self) -> None:
        """Nothing of it holds any more."""
        self.tree = LiveTree()

    def learn(self, tokens: Sequence[int]) -> None:
        """The text went on from the root with these draft tokens: the stopping rule hears what was right."""
        tree, at = self.tree, ROOT
        for token in tokens:
            found = None
            for child in tree.nodes[at].children:
                right = tree.nodes[child].token == token
                self.growth.rule.learn(tree, child, right)
                found = child if right else found
            if found is None:
                return
            at = found

    def next_nodes(self, budget: Budget, times: Times, ahead: bool, max_depth: int) -> Sequence[int]:
        """Nodes to run next, of which none is deeper than that; none if the tree is as large as pays."""
        policy = self.growth.ahead if ahead else self.growth.policy
        while grown := policy.grow(self.tree, budget):
            nodes = [node for node in grown if self._pays(node, times, max_depth)]
            if nodes:
                self._running = nodes
                return nodes
        return ()

    def _pays(self, node: int, times: Times, max_depth: int) -> bool:
        """Whether to think on from a node; if not, it is closed."""
        if self.tree.nodes[node].depth > max_depth or self.growth.rule.stops(self.tree, node, times):
            self.tree.close(node)
            return False
        return True

    def visible(self, nodes: Sequence[int], num_context: int, held: int) -> npt.NDArray[np.bool_]:
        """What the nodes' rows see: the context's rows, which are the cache's first, what is above each, and itself."""
        tree = self.tree
        visible = np.zeros((len(nodes), held + len(nodes)), dtype=np.bool_)
        visible[:, :num_context] = True
        for index, node in enumerate(nodes):
            visible[index, held + index] = True
            for above in tree.path(tree.nodes[node].parent):
                visible[index, tree.nodes[above].row] = True
        return visible

    def depths(self, nodes: Sequence[int]) -> list[int]:
        return [self.tree.nodes[node].depth for node in nodes]

    def tokens(self, nodes: Sequence[int]) -> list[int]:
        return [self.tree.nodes[node].token for node in nodes]

    def absorb(self, scores: Scores, length: int, held: int) -> None:
        """Takes the scores of the nodes' rows, which are the last of the `held` that the cache holds now.

        length: of the context in target tokens.
        """
        first = held - len(self._running)
        positions = [length + depth for depth in self.depths(self._running)]
        for index, successors in enumerate(self.reader.read(scores, positions)):
            self.tree.expand(self._running[index], successors)
            self.tree.nodes[self._running[index]].row = first + index
        self._running = []

    def absorb_root(self, scores: Scores, length: int) -> None:
        """Takes what the model says of the context's end [1, vocab]."""
        self.tree.expand(ROOT, self.reader.read(scores, [length])[0])

    def candidates(self, budget: Budget, ahead: bool) -> Candidates:
        """The best of the tree as it is, in target tokens."""
        if self.tree.root.successors is None:
            return Candidates()
        policy = self.growth.ahead if ahead else self.growth.policy
        return self._bridge.translate(self.tree, policy.select(self.tree, budget))
