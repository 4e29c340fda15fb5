"""`rejected_only`: positions where no draft had the target's token (Online Speculative Decoding, arXiv:2310.07177).

Use it where refits must be cheap: what drafts get right already is most of the text and teaches least.
"""

from __future__ import annotations

from torch import Tensor

from paceline.trainer.learning.selection.base import Evidence


def rejected_only(evidence: Evidence) -> Tensor:
    """1 where the draft was wrong, else 0 [n]."""
    return (~evidence.accepted).float()
