"""Always the same drafters: for comparison, and for those who know what they want."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from paceline.router.arms import Arm, arm_of
from paceline.router.evidence import Observation, Shape
from paceline.router.policies.base import Decision, Figures, Situation, counted


class Fixed:
    """Takes the configured drafters, as many of them as are there; all that are there if none are configured.

    Args:
        drafters: names; () is plain decoding, None takes every drafter.
    """

    shape = Shape("fixed", 2, 0.99)  # the means it reports are of recent segments, too
    explores = False
    wants_estimates = False

    def __init__(self, drafters: tuple[str, ...] | None = None) -> None:
        self._drafters = drafters

    def evidence(self, observation: Observation) -> Mapping[Arm, Sequence[float]]:
        return counted(observation)

    def choose(self, situation: Situation, random: np.random.Generator) -> Decision:
        present = {name for arm in situation.arms for name in arm.drafters}
        return Decision(arm_of(present if self._drafters is None else present.intersection(self._drafters)))

    def bonuses(self, situation: Situation) -> Figures:
        return np.zeros(len(situation.arms))
