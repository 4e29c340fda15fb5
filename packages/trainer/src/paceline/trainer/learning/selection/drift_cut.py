"""`drift_cut`: a sequence counts up to where the student drifted away from the target (Prune-OPD, arXiv:2605.07804).

For sequences that the student wrote itself: behind a wrong turn the target speaks of a text it would never have
written. The paper watches how many of the best k both have in common; here it is the mean divergence of the last
`window` positions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paceline.trainer.learning.selection.base import Evidence
from paceline.wire.errors import out_of_range


def drift_cut(evidence: Evidence, window: int = 8, limit: float = 0.8) -> Tensor:
    """1, and 0 from where the mean divergence of `window` positions in a row first exceeds `limit`, at the last of
    them, to the end of the sequence [n]. So the first `window` - 1 positions of a sequence are never cut."""
    if not 1 <= window <= 1 << 20:
        raise out_of_range("window", window, f"from 1 to {1 << 20}")
    if not 0.0 <= limit <= 1.0:
        raise out_of_range("limit", limit, "in [0, 1]")
    sums = torch.cat([evidence.divergence.new_zeros(1).double(), evidence.divergence.double().cumsum(dim=0)])
    index = torch.arange(len(evidence), device=sums.device)
    means = (sums[index + 1] - sums[(index + 1 - window).clamp(min=0)]) / window
    drifted = (evidence.offsets >= window - 1) & (means > limit + 1e-9)  # sums round
    num_drifted = drifted.cumsum(dim=0)
    before = (num_drifted - drifted.long())[evidence.starts].repeat_interleave(evidence.lengths)
    return (num_drifted - before == 0).float()
