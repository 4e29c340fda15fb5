"""Both distributions over the target's best k tokens and one lump of all the rest.

Lumping never increases a divergence (data processing inequality), so what is learnt from k + 1 numbers a position is a
lower bound on the loss over the whole vocabulary; and it is 0 exactly where both agree on the k tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from paceline.trainer.learning.objectives.base import check_shape
from paceline.trainer.learning.targets import UNSAYABLE, Targets

NEVER = -1e30  # log 0, but finite: 0 * NEVER is 0, and gradients through it are 0 rather than NaN
SMALLEST_REST = 1e-6  # float32 log-probabilities don't say more of what k of them leave


@dataclass(frozen=True, eq=False)
class Lumped:
    """All [n, k + 1]; the last column is the rest. Columns that are padding have probability 0 in both.

    Attributes:
        log_p, p: the target.
        log_q, q: the student; with gradients.
    """

    log_p: Tensor
    p: Tensor
    log_q: Tensor
    q: Tensor


def lump(log_probs: Tensor, targets: Targets) -> Lumped:
    """Both sides of a loss. See `Objective` for the arguments."""
    check_shape(log_probs, targets)
    named = targets.top_ids != UNSAYABLE
    has_rest = named.sum(dim=-1) < targets.vocab_size
    log_p = _target(targets, named, has_rest).to(log_probs.dtype)
    log_q = _student(log_probs, targets.top_ids, named, has_rest)
    return Lumped(log_p, log_p.exp(), log_q, log_q.exp())


def _target(targets: Targets, named: Tensor, has_rest: Tensor) -> Tensor:
    """In float64: 1 - sum(p) is a small difference."""
    log_p = targets.top_log_probs.double()
    named_mass = log_p.exp().sum(dim=-1)
    rest = (1.0 - named_mass).clamp(min=SMALLEST_REST) * has_rest
    log_p = _with_column(log_p, rest.log()) - (named_mass + rest).log().unsqueeze(-1)
    return log_p.masked_fill(_with_column(named, has_rest).logical_not(), NEVER)


def _student(log_probs: Tensor, top_ids: Tensor, named: Tensor, has_rest: Tensor) -> Tensor:
    known = top_ids.clamp(min=0)
    top = log_probs.gather(-1, known).masked_fill(~named, NEVER)
    # The rest is summed, not 1 - sum(top): a student that is sure would leave nothing but rounding errors.
    counts = torch.zeros(log_probs.shape, dtype=torch.uint8, device=log_probs.device)
    counts.scatter_add_(-1, known, named.to(torch.uint8))
    rest = log_probs.masked_fill(counts > 0, NEVER).logsumexp(dim=-1).masked_fill(~has_rest, NEVER)
    return _with_column(top, rest).clamp(min=NEVER)


def _with_column(matrix: Tensor, column: Tensor) -> Tensor:
    return torch.cat([matrix, column.unsqueeze(-1).to(matrix.dtype)], dim=-1)
