"""Tree policy `gumbel_top_k`: siblings are drawn without replacement, as many per node as its depth says.

RSD-C (Jeon et al. 2024, *Recursive Speculative Decoding*). Noise is added to the log-probabilities of what may follow a
node, and the k greatest sums are k draws without replacement (the Gumbel-top-k trick). Of use at a temperature, where
the most likely tokens are not the ones that will be drawn: siblings never repeat one another, and with the noise that
the target draws with, the first is the target's own choice if the distributions are alike. At temperature 0 it draws
all the same, which is for experiments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from paceline.drafter.live_tree import ROOT, LiveTree
from paceline.drafter.strategies.base import Budget
from paceline.drafter.trees.base import Shape
from paceline.drafter.trees.ranking import best_tree, can_expand, children, last_depth


def branching(width: int, depth: int) -> tuple[int, ...]:
    """Children of each node, by depth: the prime factors of `width`, greatest first, and then ones.

    So the first layers branch, every later one has `width` nodes, and a forward pass is as wide as it may be.
    """
    factors: list[int] = []
    left, divisor = width, 2
    while left > 1:
        while left % divisor == 0:
            factors.append(divisor)
            left //= divisor
        divisor += 1
    return tuple(([*factors[::-1]] + [1] * depth)[:depth])


class GumbelTopK:
    """Constant branching by depth. The verifier takes any tree, so what a budget can't hold is left out by value."""

    draws: ClassVar[bool] = True

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._branching = branching(shape.width, shape.depth)

    def grow(self, tree: LiveTree, budget: Budget) -> Sequence[int]:
        deepest = last_depth(self._shape, budget)
        layer = [ROOT]
        for depth, num in enumerate(self._branching[:deepest], start=1):
            layer = [child for node in layer for child in children(tree, node, num, budget)]
            wanted = [node for node in layer if can_expand(tree, node, budget)]
            if wanted and depth < deepest:
                return wanted
        return []

    def select(self, tree: LiveTree, budget: Budget) -> Sequence[int]:
        return best_tree(tree, budget)
