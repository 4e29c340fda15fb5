"""Discounted UCB: the arm with the best mean, optimistic about arms it has seen little of lately.

Garivier and Moulines, *On Upper-Confidence Bound Policies for Switching Bandit Problems*. Sums are discounted
by every segment, so an arm that turned good (a drafter that learnt, another kind of prompt) is tried again,
and one that turned bad is left. When to use it: traffic is of one kind, or too little to learn what depends on prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from paceline.router.arms import Arm
from paceline.router.evidence import Observation, Shape
from paceline.router.policies.base import Decision, Figures, Situation, counted


class DiscountedUcb:
    """Chooses the greatest mean + exploration · √(ln(1 + N) / n).

    n are the arm's discounted pulls, N those of all arms that can be chosen. Segments that still run count as
    pulls of the mean known so far, so that requests which start together don't all try the same arm. An arm
    without pulls has an infinite bonus: each is tried first. Ties go to the arm that comes first.

    Args:
        discount: 0.99 remembers some hundred segments of a model.
        exploration: in units of reward, where 1 is the speed of plain decoding.
    """

    explores = True
    wants_estimates = False

    def __init__(self, discount: float = 0.99, exploration: float = 0.15) -> None:
        self.shape = Shape("ucb", 2, discount)
        self._exploration = exploration

    def evidence(self, observation: Observation) -> Mapping[Arm, Sequence[float]]:
        return counted(observation)

    def choose(self, situation: Situation, random: np.random.Generator) -> Decision:
        return Decision(situation.arms[int(np.argmax(situation.means + self.bonuses(situation)))])

    def bonuses(self, situation: Situation) -> Figures:
        pulls = situation.weights + situation.pending
        tried = pulls > 0.0
        spread = np.log1p(pulls.sum()) / np.where(tried, pulls, 1.0)
        return np.where(tried, self._exploration * np.sqrt(spread), np.inf)
