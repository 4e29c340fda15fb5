"""Cross-entropy on the tokens that the target chose: for pre-training on text, and where no probabilities were kept."""

from __future__ import annotations

from torch import Tensor

from paceline.trainer.learning.objectives.base import check_shape
from paceline.trainer.learning.targets import UNSAYABLE, Targets


def ce(log_probs: Tensor, targets: Targets) -> Tensor:
    """-log q(token), in nats [n]; 0 where the student can't say the token. See `Objective`."""
    check_shape(log_probs, targets)
    said = log_probs.gather(-1, targets.tokens.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return -said.masked_fill(targets.tokens == UNSAYABLE, 0.0)
