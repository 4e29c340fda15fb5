"""Which positions to learn from, by name. To add one: a file with a function that is a `Selection`, and a line here."""

from __future__ import annotations

from paceline.trainer.learning.selection.base import Selection
from paceline.trainer.learning.selection.drift_cut import drift_cut
from paceline.trainer.learning.selection.everything import everything
from paceline.trainer.learning.selection.length_cut import length_cut
from paceline.trainer.learning.selection.on_policy import on_policy
from paceline.trainer.learning.selection.paced import paced
from paceline.trainer.learning.selection.rejected_only import rejected_only
from paceline.trainer.learning.selection.tip import tip

SELECTIONS: dict[str, Selection] = {
    "all": everything,
    "rejected_only": rejected_only,
    "tip": tip,
    "paced": paced,
    "on_policy": on_policy,
    "drift_cut": drift_cut,
    "length_cut": length_cut,
}
