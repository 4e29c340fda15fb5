"""Stopping rule `fixed`: drafts are so many tokens long, whatever they are.

Speculative decoding as it began (Leviathan et al. 2023; Chen et al. 2023). Of use as a baseline, and where nothing is
known of a model's confidence.
"""

from __future__ import annotations

from paceline.drafter.live_tree import LiveTree
from paceline.drafter.stopping.base import Times

MAX_DEPTH = 1 << 20


class Fixed:
    """Stops at that depth: no token is deeper.

    Args:
        depth: a whole number from 1; ValueError otherwise.
    """

    def __init__(self, depth: float = 5) -> None:
        if not (1 <= depth <= MAX_DEPTH and depth == int(depth)):
            raise ValueError(f"stopping rule fixed: depth must be a whole number in [1, {MAX_DEPTH}], but is {depth!r}")
        self._depth = int(depth)

    def stops(self, tree: LiveTree, node: int, times: Times) -> bool:
        return tree.nodes[node].depth >= self._depth

    def learn(self, tree: LiveTree, node: int, right: bool) -> None:
        """Learns nothing."""
