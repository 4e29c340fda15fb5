"""Jensen-Shannon divergence: half forward, half reverse, against the mean of both; bounded by log 2.

One of DistillSpec's losses; being bounded, it bears targets that are wrong now and then.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from paceline.trainer.learning.objectives.lumped import lump
from paceline.trainer.learning.targets import Targets


def jsd(log_probs: Tensor, targets: Targets) -> Tensor:
    """(KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2, in nats [n]; see `Objective`."""
    both = lump(log_probs, targets)
    log_m = torch.logaddexp(both.log_p, both.log_q) - math.log(2.0)
    terms = both.p * (both.log_p - log_m) + both.q * (both.log_q - log_m)
    return terms.sum(dim=-1) / 2
