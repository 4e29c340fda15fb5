"""Discounted UCB: the arm with the best mean, optimistic about arms it has seen little of lately.

Garivier and Moulines, *On Upper-Confidence Bound Policies for Switching Bandit Problems*. Sums are discounted
by every segment, so an arm that turned good (a drafter that learnt, another kind of prompt) is tried again,
and one that turned bad is left.
"""

from __future__ import annotations

import math

from paceline.router.arms import Arm
from paceline.router.policies.base import Situation
from paceline.router.statistics import ArmStats

PLAIN_SPEED = 1.0  # what is assumed of an arm whose first segment is still running


class DiscountedUcb:
    """Chooses the greatest mean + exploration · √(ln(1 + N) / n).

    n are the arm's discounted pulls, N those of all arms that can be chosen. Segments that still run count as
    pulls of the mean known so far, so that requests which start together don't all try the same arm. An arm
    without pulls has an infinite bonus: each is tried first. Ties go to the arm that comes first.

    Args:
        discount: 0.99 remembers some hundred segments of a model.
        exploration: in units of reward, where 1 is the speed of plain decoding.
    """

    def __init__(self, discount: float = 0.99, exploration: float = 0.25) -> None:
        self.discount = discount
        self._exploration = exploration

    def choose(self, situation: Situation) -> Arm:
        return max(situation.arms, key=lambda arm: self._mean(arm, situation) + self.bonus(arm, situation))

    def bonus(self, arm: Arm, situation: Situation) -> float:
        pulls = _pulls(arm, situation)
        if pulls <= 0.0:
            return math.inf
        total = sum(_pulls(other, situation) for other in situation.arms)
        return self._exploration * math.sqrt(math.log1p(total) / pulls)

    def _mean(self, arm: Arm, situation: Situation) -> float:
        stats = situation.stats.get(arm)
        return PLAIN_SPEED if stats is None else stats.mean


def _pulls(arm: Arm, situation: Situation) -> float:
    return situation.stats.get(arm, ArmStats()).pulls + situation.pending.get(arm, 0)
