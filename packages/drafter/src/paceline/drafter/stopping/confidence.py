"""Stopping rule `confidence`: no thinking on from a token that is rather wrong than right.

Kangaroo (Liu et al. 2024) stops as soon as the draft model's probability of its last token is below a threshold; its
authors run 0.4 to 0.6. Of use where claims are good but times are unknown; for trees with several children per node the
threshold wants to be low, since it is asked of second guesses too.
"""

from __future__ import annotations

import math

from paceline.drafter.live_tree import LiveTree
from paceline.drafter.stopping.base import Times


class Confidence:
    """Looks at the last token only, not at what its path is worth.

    Args:
        least: probability in [0, 1] that a token must claim; ValueError otherwise.
    """

    def __init__(self, least: float = 0.4) -> None:
        if not 0 <= least <= 1:
            raise ValueError(f"stopping rule confidence: the threshold must be in [0, 1], but is {least!r}")
        self._least = least

    def stops(self, tree: LiveTree, node: int, times: Times) -> bool:
        return math.exp(tree.nodes[node].claim) < self._least

    def learn(self, tree: LiveTree, node: int, right: bool) -> None:
        """Learns nothing: claims are what calibration makes of them."""
