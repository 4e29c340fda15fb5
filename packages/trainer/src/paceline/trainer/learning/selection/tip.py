"""`tip`: where the student is unsure, or sure and wrong (TIP, arXiv:2604.14084).

    s = h + d - h d

of h, the student's entropy, and d, the divergence from the target, each divided by the greatest there is, so that both
are from 0 to 1 and count alike. It is a soft "or": a position counts if either is high. The best share `rho` is kept.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from paceline.trainer.learning.selection.base import Evidence
from paceline.wire.errors import out_of_range


def tip(evidence: Evidence, rho: float = 0.5) -> Tensor:
    """1 for the ceil(rho n) positions of highest score, else 0 [n]; the earlier one where scores are equal."""
    if not 0.0 < rho <= 1.0:
        raise out_of_range("rho", rho, "in (0, 1]")
    h, d = _scaled(evidence.entropy), _scaled(evidence.divergence)
    order = (h + d - h * d).argsort(descending=True, stable=True)
    weights = torch.zeros(len(evidence), device=order.device)
    weights[order[: math.ceil(rho * len(evidence))]] = 1.0
    return weights


def _scaled(values: Tensor) -> Tensor:
    """From 0 to 1; all 0 stays so."""
    values = values.double().clamp(min=0.0)
    greatest = values.max() if len(values) else values.sum()
    return values / greatest if greatest > 0 else values
