"""Always the same drafters: for comparison, and for those who know what they want."""

from __future__ import annotations

from paceline.router.arms import Arm, arm_of
from paceline.router.policies.base import Situation


class Fixed:
    """Takes the configured drafters, as many of them as are there; all that are there if none are configured.

    Args:
        drafters: names; () is plain decoding, None takes every drafter.
    """

    discount = 0.99  # the means it reports are of recent segments, too

    def __init__(self, drafters: tuple[str, ...] | None = None) -> None:
        self._drafters = drafters

    def choose(self, situation: Situation) -> Arm:
        present = {name for arm in situation.arms for name in arm.drafters}
        return arm_of(present if self._drafters is None else present.intersection(self._drafters))

    def bonus(self, arm: Arm, situation: Situation) -> float:
        return 0.0
