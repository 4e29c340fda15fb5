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
    """One strategy's record: `corrected` before a tree is sent, `resolve` when the next tokens are known.

    What comes true differs between greedy and drawn text, so there is a record of each; `drawn` says which.
    """

    def __init__(self) -> None:
        self._records = (_Record(), _Record())

    @property
    def num_resolved(self) -> int:
        return sum(record.num_resolved for record in self._records)

    @property
    def num_right(self) -> int:
        return sum(record.num_right for record in self._records)

    def corrected(self, tree: Candidates, drawn: bool = False) -> Candidates:
        """The tree with its confidences scaled by (right + prior) / (claimed + prior) of their kind."""
        factor = self._records[drawn].factor
        confidence = [
            min(claim * factor[kind], CEILING) for claim, kind in zip(tree.confidence, tree.bins, strict=True)
        ]
        return Candidates(tree.tokens, tree.parents, confidence, tree.bins)

    def resolve(self, tree: Candidates, tokens: Sequence[int], drawn: bool = False) -> None:
        """Learns from a tree, as it was before `corrected`, whose context went on with `tokens`.

        A node is resolved if its parent came true: then it was right or wrong. Others say nothing.
        """
        record = self._records[drawn]
        depth_at = {ROOT: 0}  # nodes that came true, and how many tokens were behind them
        for node, (token, parent) in enumerate(zip(tree.tokens, tree.parents, strict=True)):
            depth = depth_at.get(parent)
            if depth is None or depth >= len(tokens):
                continue
            right = token == tokens[depth]
            if right:
                depth_at[node] = depth + 1
            record.add(tree.bins[node], tree.confidence[node], right)


class _Record:
    """Sums for each kind of guess."""

    def __init__(self) -> None:
        self.factor = [1.0] * NUM_BINS
        self.num_resolved = 0
        self.num_right = 0
        self._claimed = [0.0] * NUM_BINS
        self._right = [0.0] * NUM_BINS

    def add(self, kind: int, claim: float, right: bool) -> None:
        self.num_resolved += 1
        self.num_right += right
        self._claimed[kind] += claim
        self._right[kind] += right
        if self._claimed[kind] > MAX_CLAIMED:
            self._claimed[kind] /= 2
            self._right[kind] /= 2
        self.factor[kind] = (self._right[kind] + PRIOR_HITS) / (self._claimed[kind] + PRIOR_HITS)
