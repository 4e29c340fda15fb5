"""Stopping rule `svip`: no thinking on from a token that was drawn when the model was at a loss.

SVIP (Zhang et al. 2024, *Draft Model Knows When to Stop*). With H the entropy of the distribution that a token was
drawn from, it is refused with a probability of at most about √(c·H): so stop when √(c·H) > h. c = 0.15 and h = 0.3, as
in the authors' code, stop above 0.6 nats; as there, the token itself stays in the draft. Of use at a temperature, where
one token's probability says less than the distribution does. All children of a node stop together.
"""

from __future__ import annotations

import math

from paceline.drafter.live_tree import LiveTree
from paceline.drafter.stopping.base import Times, drawn_from

C = 0.15


class Svip:
    """Looks at the last token's distribution only.

    Args:
        most: h, from 0; ValueError otherwise.
    """

    def __init__(self, most: float = 0.3) -> None:
        if not 0 <= most < math.inf:
            raise ValueError(f"stopping rule svip: h must be a number from 0, but is {most!r}")
        self._most = most

    def stops(self, tree: LiveTree, node: int, times: Times) -> bool:
        return math.sqrt(C * max(0.0, drawn_from(tree, node).entropy)) > self._most

    def learn(self, tree: LiveTree, node: int, right: bool) -> None:
        """Learns nothing: an entropy needs no calibration."""
