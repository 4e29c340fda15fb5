"""Losses by name. To add one: a file with a function that is an `Objective`, and a line here."""

from __future__ import annotations

from paceline.trainer.learning.objectives.base import Objective
from paceline.trainer.learning.objectives.ce import ce
from paceline.trainer.learning.objectives.forward_kl import forward_kl
from paceline.trainer.learning.objectives.hybrid import hybrid
from paceline.trainer.learning.objectives.jsd import jsd
from paceline.trainer.learning.objectives.pld import pld
from paceline.trainer.learning.objectives.reverse_kl import reverse_kl
from paceline.trainer.learning.objectives.tvd import tvd
from paceline.trainer.learning.objectives.tvd_pp import tvd_pp

OBJECTIVES: dict[str, Objective] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jsd": jsd,
    "tvd": tvd,
    "tvd_pp": tvd_pp,
    "ce": ce,
    "pld": pld,
    "hybrid": hybrid,
}
