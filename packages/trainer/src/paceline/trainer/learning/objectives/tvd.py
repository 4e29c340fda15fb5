"""Total variation distance: 1 - TVD is the probability that rejection sampling accepts (Leviathan et al. 2023).

So it is what speculation pays for, and a loss in DistillSpec. Its gradient vanishes where the student gives nothing
to what the target says: for a drafter that is some use already.
"""

from __future__ import annotations

from torch import Tensor

from paceline.trainer.learning.objectives.lumped import lump
from paceline.trainer.learning.targets import Targets


def tvd(log_probs: Tensor, targets: Targets) -> Tensor:
    """sum |p - q| / 2, from 0 to 1 [n]; see `Objective`."""
    both = lump(log_probs, targets)
    return (both.p - both.q).abs().sum(dim=-1) / 2
