"""How much a drafter's confidence is worth.

Trees of different drafters meet in one trie, so their confidences must mean the same. For each (source, claimed
confidence bin, number of sources that agree) this keeps how many candidates were tried and how many were right; the
estimate is the observed rate, smoothed towards the claim while observations are few.
"""

from __future__ import annotations

import math

from paceline.verifier.trie import Node, Source

PRIOR_STRENGTH = 4.0  # a claim counts as this many observations
MAX_CLAIM = 0.95
MEMORY = 400.0  # counts are halved at this many, so that the estimate follows a drafter that changes
BINS_PER_NAT = 3.0
MAX_BIN = 24
MAX_KEYS = 65_536

_Key = tuple[Source, int, bool]


class Calibration:
    """Estimates, for each candidate, the probability that the target picks it given that its parent was picked."""

    def __init__(self) -> None:
        self._counts: dict[_Key, list[float]] = {}

    def probability(self, node: Node) -> float:
        """Of a candidate with all its proposals: that of its most credible source."""
        agreed = len(node.proposals) > 1
        return max((self._rate(source, claim, agreed) for source, claim in node.proposals.items()), default=0.0)

    def _rate(self, source: Source, log_confidence: float, agreed: bool) -> float:
        claim = min(MAX_CLAIM, math.exp(log_confidence))
        tried, right = self._counts.get(_key(source, log_confidence, agreed), (0.0, 0.0))
        return (right + PRIOR_STRENGTH * claim) / (tried + PRIOR_STRENGTH)

    def observe(self, node: Node, right: bool) -> None:
        """A candidate whose parent was picked turned out right or wrong. Candidates below a wrong one say nothing."""
        agreed = len(node.proposals) > 1
        for source, log_confidence in node.proposals.items():
            key = _key(source, log_confidence, agreed)
            counts = self._counts.get(key)
            if counts is None:
                if len(self._counts) >= MAX_KEYS:
                    self._counts.pop(next(iter(self._counts)))
                counts = self._counts[key] = [0.0, 0.0]
            if counts[0] >= MEMORY:
                counts[0] /= 2
                counts[1] /= 2
            counts[0] += 1.0
            counts[1] += float(right)


def _key(source: Source, log_confidence: float, agreed: bool) -> _Key:
    return source, min(MAX_BIN, int(-log_confidence * BINS_PER_NAT)), agreed
