"""Confidences that come true: what a strategy claims, corrected by how often it was right.

For each strategy and kind of guess, sums of the confidences claimed and of the guesses that proved right.
Only numbers are kept, no text, so sessions of different tenants may share them.
"""

from __future__ import annotations

from collections.abc import Sequence

from paceline.drafter.strategies.base import NUM_BINS, ROOT, Candidates

PRIOR_HITS = 8.0  # how many right guesses the strategy's own claim is worth
MAX_CLAIMED = 512.0  # beyond this both sums are halved: what was true long ago fades
CEILING = 0.99


class Calibration:
    """One strategy's record: `corrected` before a tree is sent, `resolve` when the next tokens are known."""

    def __init__(self) -> None:
        self._claimed = [0.0] * NUM_BINS
        self._right = [0.0] * NUM_BINS
        self._factor = [1.0] * NUM_BINS
        self.num_resolved = 0
        self.num_right = 0

    def corrected(self, tree: Candidates) -> Candidates:
        """The tree with its confidences scaled by (right + prior) / (claimed + prior) of their kind."""
        factor = self._factor
        confidence = [
            min(claim * factor[kind], CEILING) for claim, kind in zip(tree.confidence, tree.bins, strict=True)
        ]
        return Candidates(tree.tokens, tree.parents, confidence, tree.bins)

    def resolve(self, tree: Candidates, tokens: Sequence[int]) -> None:
        """Learns from a tree, as it was before `corrected`, whose context went on with `tokens`.

        A node is resolved if its parent came true: then it was right or wrong. Others say nothing.
        """
        depth_at = {ROOT: 0}  # nodes that came true, and how many tokens were behind them
        for node, (token, parent) in enumerate(zip(tree.tokens, tree.parents, strict=True)):
            depth = depth_at.get(parent)
            if depth is None or depth >= len(tokens):
                continue
            right = token == tokens[depth]
            if right:
                depth_at[node] = depth + 1
            self._add(tree.bins[node], tree.confidence[node], right)

    def _add(self, kind: int, claim: float, right: bool) -> None:
        self.num_resolved += 1
        self.num_right += right
        self._claimed[kind] += claim
        self._right[kind] += right
        if self._claimed[kind] > MAX_CLAIMED:
            self._claimed[kind] /= 2
            self._right[kind] /= 2
        self._factor[kind] = (self._right[kind] + PRIOR_HITS) / (self._claimed[kind] + PRIOR_HITS)
