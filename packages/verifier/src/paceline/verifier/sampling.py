"""Picking the next token from the target's logits: a pure function of (logits, sampling, seed, position).

`token = argmax(logits / T + gumbel(seed, position, id))` over the tokens that top-k, top-p and min-p leave, which
draws from the filtered softmax (the Gumbel-max trick); at T = 0 plain argmax. Ties go to the lowest id.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from paceline.verifier.grammar.mask import Mask, allowed
from paceline.wire import noise

FORBIDDEN = float("-inf")
MIN_TEMPERATURE = 1e-6  # colder is greedy in all but name, and logits / T would overflow float32


@dataclass(frozen=True, slots=True)
class Sampling:
    """Checked sampling parameters; see `paceline.v1.Sampling` for their meaning."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Sampler:
    """Picks tokens for one request."""

    sampling: Sampling

    @property
    def greedy(self) -> bool:
        return self.sampling.temperature == 0.0

    def pick(self, logits: torch.Tensor, position: int, mask: Mask | None = None) -> int:
        """The token at `position`, of those that the mask allows; filters see only these. logits: [vocab], any float
        type."""
        if mask is not None:
            logits = logits.masked_fill(torch.from_numpy(~allowed(mask, logits.shape[0])).to(logits.device), FORBIDDEN)
        if self.greedy:
            return int(torch.argmax(logits))
        scores = filtered(logits.float() / max(self.sampling.temperature, MIN_TEMPERATURE), self.sampling)
        return int(torch.argmax(scores + gumbel(self.sampling.seed, position, scores.shape[0], scores.device)))


def gumbel(seed: int, position: int, vocab_size: int, device: torch.device) -> torch.Tensor:
    """The shared noise of one position as float32 [vocab_size] (`paceline.wire.noise`)."""
    values = noise.gumbel(seed, position, np.arange(vocab_size, dtype=np.int64))
    return torch.from_numpy(values.astype(np.float32)).to(device)


def filtered(scores: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Scores with -inf where top-k, then top-p, then min-p forbid a token. scores: [vocab] float32, logits / T.

    Each filter sees the distribution that the one before left, renormalized, as transformers and vLLM do. The
    likeliest token always stays.
    """
    if 0 < sampling.top_k < scores.shape[0]:
        threshold = torch.topk(scores, sampling.top_k).values[-1]
        scores = scores.masked_fill(scores < threshold, float("-inf"))
    if sampling.top_p < 1.0:
        ordered, order = torch.sort(scores, descending=True, stable=True)
        probabilities = torch.softmax(ordered.double(), dim=-1)
        before = torch.cumsum(probabilities, dim=-1) - probabilities
        drop = before >= sampling.top_p
        drop[0] = False
        scores = scores.masked_fill(torch.zeros_like(drop).scatter(0, order, drop), float("-inf"))
    if sampling.min_p > 0.0:
        scores = scores.masked_fill(scores < scores.max() + float(np.log(sampling.min_p)), float("-inf"))
    return scores
