"""`on_policy`: what the student will be asked at serving, after tokens of its own.

In a draft the student goes on from what it said itself, and is asked further only while that was right: behind a wrong
turn nothing counts. So a position is reached from the d-th one before it if the student is right at all d of them (the
valid prefix of SpecBlock; GRIFFIN aligns its training with drafts in the same way). The weight is the share of drafts,
begun at each of the last `depth` positions, that get there. It needs no text of the student's own, since up to there
its text is the target's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paceline.trainer.learning.selection.base import Evidence
from paceline.wire.errors import out_of_range


def on_policy(evidence: Evidence, depth: int = 4) -> Tensor:
    """From 1 / depth, where the position before is wrong or the sequence begins, to 1 [n]."""
    if not 1 <= depth <= 64:
        raise out_of_range("depth", depth, "from 1 to 64")
    offsets = evidence.offsets
    reached = torch.ones(len(evidence), dtype=torch.bool, device=offsets.device)
    weights = torch.ones(len(evidence), device=offsets.device)
    for back in range(1, depth):
        before = torch.roll(evidence.right, back, 0)
        reached = reached & before & (offsets >= back)
        weights = weights + reached
    return weights / depth
