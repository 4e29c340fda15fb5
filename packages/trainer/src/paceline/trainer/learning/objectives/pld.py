"""Plackett-Luce distillation: the student should rank tokens as the target does (PLD, arXiv:2506.12542).

The target's best k are drawn one after another without replacement, best first, each from all that are left, the
lumped rest included:

    loss = -sum_i p(x_i) [log q(x_i) - log(sum_{j >= i} q(x_j) + rest)]

The weights p(x_i), the target's confidence, are PLD's: with k = 1 and a sure target this is cross-entropy. It is the
order that counts for a tree's siblings, so use it for drafters whose trees are wide.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paceline.trainer.learning.objectives.lumped import lump
from paceline.trainer.learning.targets import Targets


def pld(log_probs: Tensor, targets: Targets) -> Tensor:
    """The weighted negative log-likelihood of the target's order, in nats [n]; see `Objective`."""
    both = lump(log_probs, targets)
    order = both.p[:, :-1].argsort(dim=-1, descending=True, stable=True)
    weights = both.p[:, :-1].gather(-1, order)
    scores = both.log_q[:, :-1].gather(-1, order)
    left = both.log_q[:, -1]
    loss = torch.zeros_like(left)
    for rank in reversed(range(scores.shape[-1])):
        left = torch.logaddexp(left, scores[:, rank])
        loss = loss + weights[:, rank] * (left - scores[:, rank])
    return loss
