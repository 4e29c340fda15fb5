"""Reverse KL(q || p): the student says only what the target may say, and leaves out what it can't learn.

On-policy distillation uses it (DistillSpec, MiniLLM). A small drafter that is verified greedily may gain by it; from
a bad start its gradient is small, so begin with forward KL.
"""

from __future__ import annotations

from torch import Tensor

from paceline.trainer.learning.objectives.lumped import lump
from paceline.trainer.learning.targets import Targets


def reverse_kl(log_probs: Tensor, targets: Targets) -> Tensor:
    """sum q (log q - log p), in nats [n]; see `Objective`."""
    both = lump(log_probs, targets)
    return (both.q * (both.log_q - both.log_p)).sum(dim=-1)
