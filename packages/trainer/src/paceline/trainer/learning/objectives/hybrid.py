"""The hybrid loss across vocabularies of OmniDraft (arXiv:2507.02659).

Target and student have different tokens. A target's token is *direct* if one token of the student has the same bytes,
and a *run* if it takes several, d1..dm. Rows are the student's tokens; a row at which a token of the target begins
knows what the target thought there. Over those,

    loss = KL(p || q over the direct tokens and one lump of all others)         at rows where a target's token begins
         + lambda * -log q(d_j | d_1..d_j-1)                                    at each of the m rows of a run

lambda is 0.2, or the target's probability of the token that the run spells (`run_weights`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from paceline.trainer.learning.objectives.ce import ce
from paceline.trainer.learning.objectives.forward_kl import forward_kl
from paceline.trainer.learning.targets import Targets, malformed
from paceline.wire.errors import out_of_range

LAMBDA = 0.2


@dataclass(frozen=True, kw_only=True, eq=False)
class HybridTargets(Targets):
    """Targets whose rows are the student's tokens, `tokens` being the student's own.

    Attributes:
        begins: bool [n], whether a token of the target begins at the row. Only there do top_ids count.
        run_weights: float [n], lambda at rows of a run, 0 at direct ones; finite and not negative.
    """

    begins: Tensor
    run_weights: Tensor

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.begins.dtype != torch.bool or self.begins.shape != self.tokens.shape:
            raise malformed("begins", f"{self.begins.dtype} {list(self.begins.shape)}", f"bool [{len(self)}]")
        if not self.run_weights.is_floating_point() or self.run_weights.shape != self.tokens.shape:
            given = f"{self.run_weights.dtype} {list(self.run_weights.shape)}"
            raise malformed("run_weights", given, f"a float type and shape [{len(self)}]")
        if not bool((self.run_weights.isfinite() & (self.run_weights >= 0)).all()):
            raise out_of_range("run_weights", "some that aren't", "finite and not negative")


def hybrid(log_probs: Tensor, targets: Targets) -> Tensor:
    """OmniDraft's loss [n], in nats; `targets` must be `HybridTargets`. See `Objective`."""
    if not isinstance(targets, HybridTargets):
        raise malformed("targets", f"the type {type(targets).__name__}", "the type HybridTargets for this objective")
    mapped = forward_kl(log_probs, targets) * targets.begins.to(log_probs.dtype)
    return mapped + ce(log_probs, targets) * targets.run_weights.to(log_probs.dtype)


def run_weights(num_student_tokens: Tensor, target_log_probs: Tensor | None = None) -> Tensor:
    """lambda of each of the student's rows [sum of num_student_tokens], float32.

    Args:
        num_student_tokens: int64 [t], how many tokens of the student spell each token of the target, at least 1.
        target_log_probs: [t], what the target gave to those tokens; lambda is then that probability and else LAMBDA.
    """
    weights = torch.full(num_student_tokens.shape, LAMBDA, device=num_student_tokens.device)
    if target_log_probs is not None:
        weights = target_log_probs.float().exp()
    return weights.masked_fill(num_student_tokens == 1, 0.0).repeat_interleave(num_student_tokens)
