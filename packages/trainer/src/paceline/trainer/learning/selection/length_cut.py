"""`length_cut`: only the beginning of each sequence counts.

Most of what there is to learn on a sequence is early in it, and its end may be far from what the student would write:
half of it for half the cost.
"""

from __future__ import annotations

from torch import Tensor

from paceline.trainer.learning.selection.base import Evidence
from paceline.wire.errors import out_of_range


def length_cut(evidence: Evidence, share: float = 0.5) -> Tensor:
    """1 for the first `share` of each sequence, rounded up, else 0 [n]."""
    if not 0.0 < share <= 1.0:
        raise out_of_range("share", share, "in (0, 1]")
    kept = (evidence.lengths.double() * share).ceil().long().repeat_interleave(evidence.lengths)
    return (evidence.offsets < kept).float()
