"""Tree policy `opt_tree`: the tree with the most expected tokens for its size, and no deeper than pays.

OPT-Tree (Wang et al. 2024). Layer by layer, E = the values of the best `budget.max_nodes` nodes so far, added up. Only
nodes among these are expanded, and only while the last layer raised E by more than δ. What a node's children are worth
is no more than the node, so a layer never gains more than the one before: once it doesn't pay, deeper ones don't.
Of use wherever claims can be trusted.

In theory δ is the time of a drafter's forward pass as a share of a verifier's step. The authors' script takes 0.5 for a
68M model; ours is lower, since drafters may draft ahead, and measured times are the business of the `cost` rule.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from paceline.drafter.live_tree import ROOT, LiveTree
from paceline.drafter.strategies.base import Budget
from paceline.drafter.trees.base import Shape
from paceline.drafter.trees.ranking import best_tree, last_depth, make_children, worth_expanding

DELTA = 0.2


class OptTree:
    """The authors expand all of a layer's nodes that are still wanted; here the best `shape.width` of them."""

    draws: ClassVar[bool] = False

    def __init__(self, shape: Shape, delta: float = DELTA) -> None:
        self._shape = shape
        self._delta = delta

    def grow(self, tree: LiveTree, budget: Budget) -> Sequence[int]:
        deepest = last_depth(self._shape, budget)
        expanded = [ROOT]
        for depth in range(1, deepest + 1):
            for node in expanded:
                make_children(tree, node, self._shape.width, budget)
            layer = [child for node in expanded for child in tree.nodes[node].children]
            wanted = worth_expanding(tree, layer, self._shape.width, budget) if depth < deepest else []
            if wanted:
                gain = _expected(tree, budget, depth) - _expected(tree, budget, depth - 1)
                return wanted if gain > self._delta else []
            expanded = [node for node in layer if tree.nodes[node].successors is not None]
        return []

    def select(self, tree: LiveTree, budget: Budget) -> Sequence[int]:
        return best_tree(tree, budget)


def _expected(tree: LiveTree, budget: Budget, depth: int) -> float:
    """E of the tree down to a depth."""
    within = Budget(budget.max_nodes, min(depth, budget.max_depth), budget.least_value)
    return math.fsum(math.exp(tree.nodes[node].log_value) for node in best_tree(tree, within))
