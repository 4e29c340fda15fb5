"""`all`: every position counts the same. What the other choices are held against."""

from __future__ import annotations

import torch
from torch import Tensor

from paceline.trainer.learning.selection.base import Evidence


def everything(evidence: Evidence) -> Tensor:
    """Ones [n]."""
    return torch.ones(len(evidence), device=evidence.accepted.device)
