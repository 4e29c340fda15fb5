"""EAGLE-3's loss of a head that was unrolled on its own features ("training-time test", arXiv:2503.01840).

Step 0 is told the target's features everywhere, step i its own of i steps back; its losses count 0.8^i, since what is
drafted deeper is reached more rarely.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from paceline.trainer.learning.objectives.base import Objective
from paceline.trainer.learning.targets import Targets
from paceline.wire.errors import out_of_range

DECAY = 0.8


def multi_step(
    log_probs: Sequence[Tensor], targets: Sequence[Targets], objective: Objective, decay: float = DECAY
) -> Tensor:
    """sum_i decay^i objective_i [n].

    Args:
        log_probs: of each step, [n, vocab_size].
        targets: of each step, n positions each.
        objective: of a step, any in OBJECTIVES.
    """
    return decayed_sum([objective(*step) for step in zip(log_probs, targets, strict=True)], decay)


def decayed_sum(losses: Sequence[Tensor], decay: float = DECAY) -> Tensor:
    """The same of losses [n] that are there already, such as those of `chunked_loss`."""
    if not losses:
        raise out_of_range("losses", "of 0 steps", "of at least 1")
    stacked = torch.stack(list(losses))
    factors = decay ** torch.arange(len(stacked), dtype=stacked.dtype, device=stacked.device)
    return (factors.unsqueeze(-1) * stacked).sum(dim=0)
