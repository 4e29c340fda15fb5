"""Tree policy `stochastic_beam`: a beam of sequences that are drawn without replacement.

RSD-S (Jeon et al. 2024, *Recursive Speculative Decoding*), by the search of Kool, van Hoof and Welling (2019,
*Stochastic Beams and Where to Find Them*). Each sequence has a perturbed log-probability, as if every sequence of that
length had got Gumbel noise of its own, and the beam keeps the `shape.width` greatest. These are found from the top
down. With φ the log-probability of a node's path, G its perturbed one and Z the greatest of its children's φ' + noise,
the children are shifted such that the greatest of them has G, as it would have had:

    G' = -log(exp(-G) - exp(-Z) + exp(-(φ' + noise)))

Of use at a temperature and with a small budget: like `gumbel_top_k`, but it is the model that decides which nodes have
several children, and unlikely sequences end early. They are a sample without replacement if the noise is independent.
The shared noise is the same for all nodes of one depth, so different parents draw alike; that harms nothing, since the
verifier never asks how a candidate was found.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from paceline.drafter.live_tree import ROOT, LiveTree
from paceline.drafter.strategies.base import Budget
from paceline.drafter.trees.base import Shape
from paceline.drafter.trees.ranking import best_tree, can_expand, last_depth, log_floor


class StochasticBeam:
    """Layer by layer, among the children of the beam's nodes. Perturbed values are computed from the tree each time."""

    draws: ClassVar[bool] = True

    def __init__(self, shape: Shape) -> None:
        self._shape = shape

    def grow(self, tree: LiveTree, budget: Budget) -> Sequence[int]:
        deepest = last_depth(self._shape, budget)
        beam = {ROOT: 0.0}  # the root's perturbed value shifts all of them alike
        for depth in range(1, deepest + 1):
            beam = self._next(tree, beam, budget)
            wanted = [node for node in beam if can_expand(tree, node, budget)]
            if wanted and depth < deepest:
                return wanted
        return []

    def select(self, tree: LiveTree, budget: Budget) -> Sequence[int]:
        return best_tree(tree, budget)

    def _next(self, tree: LiveTree, beam: dict[int, float], budget: Budget) -> dict[int, float]:
        """The nodes after a beam with their perturbed values, the greatest first."""
        found = [
            (perturbed, node, rank)
            for node, above in beam.items()
            for rank, perturbed in self._perturbed(tree, node, above, budget)
        ]
        found.sort(key=lambda candidate: -candidate[0])
        return {tree.add(node, rank): perturbed for perturbed, node, rank in found[: self._shape.width]}

    def _perturbed(self, tree: LiveTree, node: int, above: float, budget: Budget) -> list[tuple[int, float]]:
        """Ranks of a node's successors with G', of those that can be drawn and are worth anything."""
        it = tree.nodes[node]
        if it.successors is None or not len(it.successors):
            return []
        least, width = log_floor(budget), self._shape.width
        sums = (it.log_q + it.successors.log_q + it.successors.noise).tolist()
        greatest = max(sums)
        # No more than a beam's width of one node's children can be in the beam.
        return [
            (rank, shifted(above, total, greatest))
            for rank, (total, claim) in enumerate(zip(sums[:width], it.successors.claims[:width].tolist(), strict=True))
            if total > -math.inf and it.log_value + min(claim, 0.0) >= least
        ]


def shifted(above: float, total: float, greatest: float) -> float:
    """G' of a child: `above` is its parent's G, `total` its φ' + noise, `greatest` that of the best sibling.

    The same formula in the authors' numerically stable form: nothing overflows, and nothing cancels.
    """
    gap = total - greatest
    if gap >= 0:
        return above
    # log(1 - exp(gap)), by whichever of two ways loses no digits
    rest = math.log(-math.expm1(gap)) if gap > -math.log(2) else math.log1p(-math.exp(gap))
    difference = above - total + rest
    return above - max(difference, 0.0) - math.log1p(math.exp(-abs(difference)))
