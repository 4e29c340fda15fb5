"""Logits to `Successors`: what a model thinks may come, in the way in which the target will choose.

The target takes argmax(log p + noise) with noise that everybody who has the seed can compute. A model that adds the
same noise to its own log q usually names the same token (Daliri et al., *Coupling without Communication and
Drafter-Invariant Speculative Decoding*), so at a temperature the successors are ranked with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paceline.drafter.live_tree import Successors
from paceline.drafter.models.base import Logits
from paceline.drafter.strategies.base import Sampling
from paceline.wire.noise import gumbel

# Tokens whose noise is looked at. What lies beyond them is drawn too rarely to be worth a hash of the whole vocabulary.
MAX_DRAWN = 64
# How much a lead in log q + noise is trusted: claims are softmax(SHARPNESS * (log q + noise)). 1 would take the noise
# for a part of the distribution, infinity would trust the model blindly; calibration corrects what is left.
SHARPNESS = 2.0

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Reader:
    """How one session reads its model's logits.

    Attributes:
        sampling: of the request.
        size: of the vocabulary; logits beyond it mean nothing.
        width: successors wanted of each row.
        draws: rank with noise at temperature 0 too, for tree policies that sample.
        allowed: tokens that may be proposed [size]; None allows all.
        noise_ids: the target's token whose noise each token shares, -1 for none [size]; None: no noise is shared.
    """

    sampling: Sampling
    size: int
    width: int
    draws: bool = False
    allowed: npt.NDArray[np.bool_] | None = None
    noise_ids: npt.NDArray[np.int64] | None = None

    def read(self, logits: Logits, positions: Sequence[int]) -> list[Successors]:
        """logits: [n, vocab]; positions: of the target's token that each row predicts [n]."""
        return [self._row(row, position) for row, position in zip(logits, positions, strict=True)]

    def _row(self, row: npt.NDArray[np.float32], position: int) -> Successors:
        row = row[: self.size]
        if self.allowed is not None:
            row = np.where(self.allowed[: len(row)], row, -np.inf)
        temperature = self.sampling.temperature
        scaled = row.astype(np.float64) / (temperature if temperature > 0.0 else 1.0)
        top = scaled.max()
        if not np.isfinite(top):
            return _NOTHING  # nothing is allowed, or the model is broken
        weights = np.exp(scaled - top)
        total = weights.sum()
        # Probability 0 times logarithm minus infinity is nothing.
        entropy = float(np.log(total) - np.dot(weights, np.where(weights > 0.0, scaled - top, 0.0)) / total)
        noisy = (temperature > 0.0 or self.draws) and self.noise_ids is not None
        best = _best(scaled, MAX_DRAWN if noisy else self.width)
        log_q = scaled[best] - top - np.log(total)
        if temperature > 0.0:
            kept = _kept(log_q, self.sampling)
            best, log_q = best[:kept], log_q[:kept]
            log_q = log_q - np.logaddexp.reduce(log_q) if kept < MAX_DRAWN else log_q
        if not noisy:
            found = slice(0, self.width)
            return Successors(best[found], log_q[found], np.zeros(len(best[found])), log_q[found], entropy)
        return self._ranked(best, log_q, position, entropy)

    def _ranked(self, tokens: npt.NDArray[np.int64], log_q: Floats, position: int, entropy: float) -> Successors:
        assert self.noise_ids is not None
        shared = self.noise_ids[tokens]
        noise = np.where(shared >= 0, gumbel(self.sampling.seed, position, np.maximum(shared, 0)), 0.0)
        score = log_q + noise
        order = np.argsort(-score, kind="stable")[: self.width]
        claims = log_q
        if self.sampling.temperature > 0.0:
            claims = SHARPNESS * score - np.logaddexp.reduce(SHARPNESS * score)
        return Successors(tokens[order], log_q[order], noise[order], claims[order], entropy)


_NOTHING = Successors(np.zeros(0, np.int64), np.zeros(0), np.zeros(0), np.zeros(0), 0.0)


def _best(values: Floats, count: int) -> npt.NDArray[np.int64]:
    """Indices of the `count` greatest finite values, greatest first, ties by index."""
    count = min(count, len(values))
    found = np.argpartition(values, len(values) - count)[len(values) - count :]
    found = found[np.isfinite(values[found])]
    return found[np.lexsort((found, -values[found]))].astype(np.int64)


def _kept(log_q: Floats, sampling: Sampling) -> int:
    """How many of the likeliest tokens the request's filters leave, as far as these go; at least one."""
    kept = len(log_q)
    if sampling.top_k:
        kept = min(kept, sampling.top_k)
    if sampling.top_p < 1.0:
        before = np.cumsum(np.exp(log_q)) - np.exp(log_q)  # mass of those that are likelier
        kept = min(kept, int((before < sampling.top_p).sum()))
    if sampling.min_p > 0.0:
        kept = min(kept, int((log_q >= log_q[0] + np.log(sampling.min_p)).sum()))
    return max(kept, 1)
