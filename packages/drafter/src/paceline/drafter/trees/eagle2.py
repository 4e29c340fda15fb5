"""Tree policy `eagle2`: each layer expands its most valuable nodes, and at the end the best of all are proposed.

EAGLE-2 (Li et al. 2024). It takes `shape.depth` forward passes of up to `shape.width` nodes whatever they find, so its
time is known in advance. Of use where a forward pass takes as long for a few rows as for one; a stopping rule may end
it early.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from paceline.drafter.live_tree import ROOT, LiveTree
from paceline.drafter.strategies.base import Budget
from paceline.drafter.trees.base import Shape
from paceline.drafter.trees.ranking import best, best_tree, can_expand, last_depth, make_children


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
            wanted = [node for node in best(tree, layer, width) if can_expand(tree, node, budget)]
            if wanted and depth < deepest:
                return wanted
            expanded = [node for node in layer if tree.nodes[node].successors is not None]
        return []

    def select(self, tree: LiveTree, budget: Budget) -> Sequence[int]:
        return best_tree(tree, budget)
