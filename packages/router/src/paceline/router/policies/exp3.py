"""Exp3: no assumption on how rewards come about, not even that they have means.

Auer, Cesa-Bianchi, Freund and Schapire, *The Nonstochastic Multiarmed Bandit Problem*. An arm's gain is its reward over
the probability with which it was drawn, so that arms that are rarely drawn aren't thought poor for that. Gains are
discounted, in place of the restarts of Exp3.S. What counts is the reward beyond plain speed: the same constant taken
from every reward changes no expectation, and the estimates vary less. When to use it: rewards that somebody manipulates
knowing the policy. It pays for that with much exploration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from paceline.router.arms import Arm
from paceline.router.evidence import Observation, Shape
from paceline.router.policies.base import PLAIN_REWARD, Decision, Figures, Situation, drawn_by_gains


class Exp3:
    """Draws arms with probability (1 - mixing) · softmax(rate · gain) + mixing / arms.

    Args:
        discount: 0.995 remembers some two hundred segments of a model.
        mixing: share of segments that explore evenly.
        rate: at which gains turn into preference.
    """

    explores = True
    wants_estimates = False

    def __init__(self, discount: float = 0.995, mixing: float = 0.05, rate: float = 0.1) -> None:
        self.shape = Shape("exp3", 3, discount)
        self._mixing = mixing
        self._rate = rate

    def evidence(self, observation: Observation) -> Mapping[Arm, Sequence[float]]:
        """A segment under an arm that wasn't drawn here has no gain: nobody knows how likely it was."""
        drawn_at = observation.probability
        gain = (observation.reward - PLAIN_REWARD) / drawn_at if drawn_at > 0.0 else 0.0
        return {observation.arm: (1.0, observation.reward, gain)}

    def choose(self, situation: Situation, random: np.random.Generator) -> Decision:
        gains = self._rate * situation.sums[:, 2]
        return drawn_by_gains(situation.arms, gains, self._mixing, random)

    def bonuses(self, situation: Situation) -> Figures:
        return np.zeros(len(situation.arms))
