"""Logits to `Successors`: what a model thinks may come, in the way in which the target will choose.

The target takes argmax(log p + noise) with noise that everybody who has the seed can compute. A model that adds the
same noise to its own log q usually names the same token (Daliri et al., *Coupling without Communication and
Drafter-Invariant Speculative Decoding*), so at a temperature the successors are ranked with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paceline.drafter.live_tree import Successors
from paceline.drafter.models.base import Logits, Scores, TopK
from paceline.drafter.strategies.base import Sampling
from paceline.wire.noise import gumbel

# Tokens whose noise is looked at. What lies beyond them is drawn too rarely to be worth a hash of the whole vocabulary.
MAX_DRAWN = 64
# How much a lead in log q + noise is trusted: claims are softmax(SHARPNESS * (log q + noise)). 1 would take the noise
# for a part of the distribution, infinity would trust the model blindly; calibration corrects what is left.
SHARPNESS = 2.0

FOLDS = 16
_LEAST_SHIFTED = np.float32(-1e4)  # a weight of 0, and times 0 it is 0

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

    @property
    def top_k(self) -> int:
        """How many of a row's likeliest tokens it looks at."""
        return MAX_DRAWN if self._noisy else self.width

    @property
    def scale(self) -> float:
        """What logits are multiplied by."""
        temperature = self.sampling.temperature
        return 1.0 / temperature if temperature > 0.0 else 1.0

    @property
    def _noisy(self) -> bool:
        return (self.sampling.temperature > 0.0 or self.draws) and self.noise_ids is not None

    def read(self, scores: Scores, positions: Sequence[int]) -> list[Successors]:
        """scores: [n, vocab], or a `TopK` with this reader's `top_k` and `scale`, if all tokens are allowed.
        positions: of the target's token that each row predicts [n]."""
        top = scores if isinstance(scores, TopK) else self._top(scores)
        values = top.logits.astype(np.float64) * self.scale
        tops = values[:, 0].tolist()  # not finite if nothing is allowed, or the model is broken
        lasts = values[:, -1].tolist()
        log_totals, entropies = top.log_totals.tolist(), top.entropies.tolist()
        found: list[Successors] = []
        for row, (first, last, position) in enumerate(zip(tops, lasts, positions, strict=True)):
            if not math.isfinite(first):
                found.append(_NOTHING)
                continue
            num_finite = values.shape[1] if math.isfinite(last) else int(np.isfinite(values[row]).sum())
            log_q = values[row, :num_finite] - (first + log_totals[row])
            found.append(self._chosen(top.tokens[row, :num_finite], log_q, position, entropies[row]))
        return found

    def _top(self, logits: Logits) -> TopK:
        logits = logits[:, : self.size]
        if self.allowed is not None:
            logits = np.where(self.allowed[: logits.shape[1]], logits, np.float32(-np.inf))
        best = _best(logits, self.top_k)
        return TopK(best, logits[np.arange(len(best))[:, None], best], *_masses(logits, self.scale))

    def _chosen(self, best: npt.NDArray[np.int64], log_q: Floats, position: int, entropy: float) -> Successors:
        """best: likeliest first."""
        if self.sampling.temperature > 0.0:
            kept = _kept(log_q, self.sampling)
            best, log_q = best[:kept], log_q[:kept]
            log_q = log_q - np.logaddexp.reduce(log_q) if kept < MAX_DRAWN else log_q
        if not self._noisy:
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


def _masses(logits: Logits, scale: float) -> tuple[Floats, Floats]:
    """Of each row the logarithm of its weights' sum, the likeliest's being 1, and its entropy."""
    with np.errstate(invalid="ignore", over="ignore"):  # rows that are not finite are nobody's
        shifted = (logits - logits.max(axis=1, keepdims=True)) * np.float32(scale)
        np.maximum(shifted, _LEAST_SHIFTED, out=shifted)
        weights = np.exp(shifted)
        totals = weights.sum(axis=1, dtype=np.float32).astype(np.float64)
        log_totals = np.log(totals)
        entropies = log_totals - np.vecdot(weights, shifted) / totals
    return log_totals, entropies


def _best(rows: Logits, count: int) -> npt.NDArray[np.int64]:
    """Indices of each row's `count` greatest values, greatest first, ties by index; what is not finite comes last, but
    for rows that have such a maximum.

    They lie in those columns of a row's `FOLDS` parts in which the maxima are greatest, so most is looked at once only.
    """
    num_rows, size = rows.shape
    count = min(count, size)
    columns = size // FOLDS
    each = np.arange(num_rows)[:, None]
    if columns < 2 * count:
        places = np.argpartition(rows, size - count, axis=1)[:, size - count :]
    else:
        maxima = rows[:, : columns * FOLDS].reshape(num_rows, FOLDS, columns).max(axis=1)
        chosen = np.argpartition(maxima, columns - count, axis=1)[:, None, columns - count :]
        candidates = (chosen + np.arange(0, columns * FOLDS, columns)[:, None]).reshape(num_rows, -1)
        if size % FOLDS:
            rest = np.broadcast_to(np.arange(columns * FOLDS, size), (num_rows, size % FOLDS))
            candidates = np.concatenate([candidates, rest], axis=1)
        within = np.argpartition(rows[each, candidates], candidates.shape[1] - count, axis=1)[:, -count:]
        places = candidates[each, within]
    order = np.lexsort((places, -rows[each, places]), axis=1)
    return places[each, order].astype(np.int64, copy=False)


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
