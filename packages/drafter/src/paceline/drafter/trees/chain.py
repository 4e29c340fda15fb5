"""Tree policy `chain`: always the best successor of the last node.

The draft of speculative decoding as it began (Leviathan et al. 2023; Chen et al. 2023). Of use where a verifier takes
few candidates, or where a drafter is so often right that a second guess isn't worth a row: `shape.width` is ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from paceline.drafter.live_tree import ROOT, LiveTree
from paceline.drafter.strategies.base import Budget
from paceline.drafter.trees.base import Shape
from paceline.drafter.trees.ranking import can_expand, children, last_depth


class Chain:
    """Nodes of rank 0, one below the other. At a temperature that is one sample of the model's text."""

    draws: ClassVar[bool] = False

    def __init__(self, shape: Shape) -> None:
        self._shape = shape

    def grow(self, tree: LiveTree, budget: Budget) -> Sequence[int]:
        depth = min(last_depth(self._shape, budget), budget.max_nodes)
        node = _follow(tree, budget, depth)[-1]
        return [node] if tree.nodes[node].depth < depth and can_expand(tree, node, budget) else []

    def select(self, tree: LiveTree, budget: Budget) -> Sequence[int]:
        return _follow(tree, budget, min(budget.max_depth, budget.max_nodes))[1:]


def _follow(tree: LiveTree, budget: Budget, depth: int) -> list[int]:
    """The root and what follows it, down to a node that is not expanded, or that depth."""
    path = [ROOT]
    while tree.nodes[path[-1]].depth < depth:
        following = children(tree, path[-1], 1, budget)
        if not following:
            break
        path += following
    return path
