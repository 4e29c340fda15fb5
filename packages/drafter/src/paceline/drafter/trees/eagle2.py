"""Tree policy `eagle2`: each layer expands its most valuable nodes, and at the end the best of all are proposed.

EAGLE-2 (Li et al. 2024). It takes up to `shape.depth` forward passes of up to `shape.width` nodes. The authors expand a
layer's best whatever they are worth; here what can't be among the best of all any more is left out, which changes no
tree and ends many of them sooner. Of use where a forward pass takes as long for a few rows as for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from paceline.drafter.live_tree import ROOT, LiveTree
from paceline.drafter.strategies.base import Budget
from paceline.drafter.trees.base import Shape
from paceline.drafter.trees.ranking import best_tree, last_depth, make_children, worth_expanding


class Eagle2:
    """Layer by layer: of all children of the last layer's expanded nodes, the `width` best by value of their path."""

    draws: ClassVar[bool] = False

    def __init__(self, shape: Shape) -> None:
        self._shape = shape

    def grow(self, tree: LiveTree, budget: Budget) -> Sequence[int]:
        width, deepest = self._shape.width, last_depth(self._shape, budget)
        expanded = [ROOT]
        for depth in range(1, deepest + 1):
            for node in expanded:
                make_children(tree, node, width, budget)
            layer = [child for node in expanded for child in tree.nodes[node].children]
            wanted = worth_expanding(tree, layer, width, budget) if depth < deepest else []
            if wanted:
                return wanted
            expanded = [node for node in layer if tree.nodes[node].successors is not None]
        return []

    def select(self, tree: LiveTree, budget: Budget) -> Sequence[int]:
        return best_tree(tree, budget)
