"""Forward KL(p || q): the student covers everything that the target may say.

The usual loss of distillation (Hinton et al. 2015). Use it first: its gradient never vanishes where the student is
wrong.
"""

from __future__ import annotations

from torch import Tensor

from paceline.trainer.learning.objectives.lumped import lump
from paceline.trainer.learning.targets import Targets


def forward_kl(log_probs: Tensor, targets: Targets) -> Tensor:
    """sum p (log p - log q), in nats [n]; see `Objective`."""
    both = lump(log_probs, targets)
    return (both.p * (both.log_p - both.log_q)).sum(dim=-1)
