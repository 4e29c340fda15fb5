"""`paced`: sequences at the edge of what the student can do (PACED, arXiv:2603.11178).

    w = p^alpha (1 - p)^beta

of a sequence's acceptance rate p, which stands in for the paper's pass rate: what is always accepted needs no lesson,
and from what is never accepted the gradient is mostly noise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paceline.trainer.learning.selection.base import Evidence
from paceline.wire.errors import out_of_range


def paced(evidence: Evidence, alpha: float = 1.0, beta: float = 1.0) -> Tensor:
    """The weight of each position's sequence [n], at most 1. alpha, beta: at least 0."""
    for name, value in (("alpha", alpha), ("beta", beta)):
        if not 0.0 <= value <= 100.0:
            raise out_of_range(name, value, "in [0, 100]")
    lengths = evidence.lengths
    sequence = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)
    num_accepted = torch.zeros(len(lengths), device=lengths.device).index_add(0, sequence, evidence.accepted.float())
    p = num_accepted / lengths
    return (p**alpha * (1.0 - p) ** beta)[sequence]
