"""Random students and targets for the tests of losses."""

from __future__ import annotations

import math

import torch
from hypothesis import strategies as st
from torch import Tensor

from paceline.trainer.learning.objectives import OBJECTIVES
from paceline.trainer.learning.objectives.hybrid import HybridTargets
from paceline.trainer.learning.targets import UNSAYABLE, Targets

torch.set_num_threads(1)

SINGLE = tuple(name for name in OBJECTIVES if name != "hybrid")
DIVERGENCES = ("forward_kl", "reverse_kl", "jsd", "tvd", "tvd_pp")  # 0 where both agree
SEEDS = st.integers(0, 2**31 - 1)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def student(seed: int, n: int, vocab_size: int, spread: float = 2.0) -> Tensor:
    """Logits [n, vocab_size], float64."""
    return torch.randn(n, vocab_size, generator=generator(seed), dtype=torch.float64) * spread


def targets(seed: int, n: int, vocab_size: int, k: int, padded: int = 0, temperature: float = 1.0) -> Targets:
    """The best k of a random target, the last `padded` of them as padding; and one token not sayable."""
    log_probs = student(seed + 1, n, vocab_size).log_softmax(dim=-1)
    top, ids = log_probs.topk(k, dim=-1)
    tokens = torch.multinomial(log_probs.exp(), 1, generator=generator(seed)).squeeze(-1)
    if padded:
        ids[:, k - padded :] = UNSAYABLE
        top[:, k - padded :] = -math.inf
        tokens[0] = UNSAYABLE
    return Targets(tokens=tokens, top_ids=ids, top_log_probs=top, temperature=temperature, vocab_size=vocab_size)


def agreeing(log_probs: Tensor, k: int) -> Targets:
    """A target that thinks what the student thinks, told by its best k."""
    top, ids = log_probs.topk(k, dim=-1)
    return Targets(tokens=ids[:, 0], top_ids=ids, top_log_probs=top, temperature=1.0, vocab_size=log_probs.shape[-1])


def as_hybrid(plain: Targets, seed: int = 0) -> HybridTargets:
    """Some rows begin a target's token, some belong to a run."""
    n = len(plain)
    draws = torch.rand(2, n, generator=generator(seed))
    return HybridTargets(
        tokens=plain.tokens.clamp(min=0),
        top_ids=plain.top_ids,
        top_log_probs=plain.top_log_probs,
        temperature=plain.temperature,
        vocab_size=plain.vocab_size,
        begins=draws[0] < 0.7,
        run_weights=draws[1] * (draws[1] < 0.5),
    )


def targets_for(name: str, plain: Targets) -> Targets:
    """What the objective of that name takes."""
    return as_hybrid(plain) if name == "hybrid" else plain
