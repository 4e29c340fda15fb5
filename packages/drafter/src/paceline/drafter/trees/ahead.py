"""How a tree grows while the verifier is at work: best first, over everything that the model thinks may come.

What the verifier will commit is a path of the tree and one token more, which is mostly one that was not proposed: so
siblings that were not worth proposing are worth thinking about now. The likeliest outcomes come first, whatever policy
made the draft. When the commit comes it picks the branch (Saguaro and PEARL prepare for outcomes in the same way).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from typing import ClassVar

from paceline.drafter.live_tree import LiveNode, LiveTree
from paceline.drafter.strategies.base import Budget
from paceline.drafter.trees.base import Shape

LEAST_VALUE = 0.005  # an outcome less likely than this is not worth a row


class Ahead:
    """The `width` likeliest successors that have not been thought from, in each pass; depth is the budget's."""

    draws: ClassVar[bool] = False

    def __init__(self, shape: Shape) -> None:
        self._width = shape.width

    def grow(self, tree: LiveTree, budget: Budget) -> Sequence[int]:
        """Ends when the budget's nodes have been thought from."""
        num_expanded = sum(1 for node in tree.nodes[1:] if node.successors is not None)
        count = min(self._width, budget.max_nodes - num_expanded)
        likeliest = heapq.nlargest(count, _outcomes(tree, budget)) if count > 0 else []
        return [tree.add(-parent, -rank) for _, parent, rank in likeliest]

    def select(self, tree: LiveTree, budget: Budget) -> Sequence[int]:
        """The most valuable nodes."""
        least = _least(budget)
        worth = [
            (-node.log_value, index)
            for index, node in enumerate(tree.nodes)
            if index and node.depth <= budget.max_depth and node.log_value >= least
        ]
        # A child is worth no more than its parent and comes after it.
        return sorted(index for _, index in heapq.nsmallest(budget.max_nodes, worth))


def _least(budget: Budget) -> float:
    return math.log(max(budget.least_value, LEAST_VALUE))


def _outcomes(tree: LiveTree, budget: Budget) -> list[tuple[float, int, int]]:
    """(log value, -parent, -rank) of each successor of an expanded node that may be thought from."""
    least = _least(budget)
    found: list[tuple[float, int, int]] = []
    for index, node in enumerate(tree.nodes):
        if node.successors is None or node.depth >= budget.max_depth:
            continue
        settled = _settled_ranks(tree, node)
        for rank, claim in enumerate(node.successors.claims.tolist()):
            if rank not in settled and node.log_value + claim >= least:
                found.append((node.log_value + claim, -index, -rank))
    return found


def _settled_ranks(tree: LiveTree, node: LiveNode) -> set[int]:
    children = [tree.nodes[child] for child in node.children]
    return {child.rank for child in children if child.successors is not None or child.closed}
