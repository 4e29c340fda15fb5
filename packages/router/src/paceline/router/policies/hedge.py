"""Hedge: learns of every arm from every segment, if somebody can say what the others would have earned.

Freund and Schapire, *A Decision-Theoretic Generalization of On-Line Learning*; for drafters: HedgeSpec, where drafters
that were not engaged are scored on the verified text. When to use it: there are many drafters, which other policies
have to try again and again, and verifiers can afford to score them in the background (their `--shadow-share`).

Estimates come from the verifiers, for each drafter alone, as often as they get round to it. Pairs and small budgets are
not estimated; of those, and of everybody where verifiers send nothing, it learns from segments that they served, and
explores only by the draws of its mixture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from paceline.router.arms import Arm
from paceline.router.evidence import Observation, Shape
from paceline.router.policies.base import Decision, Figures, Situation, drawn_by_gains


class Hedge:
    """Draws arms with probability softmax(rate · N · mean), mixed with a little of every arm.

    N is the weight of the arm that was heard of most. Where all arms are heard of in every segment, N · mean is the
    arm's discounted sum of rewards, as in the original; an arm heard of less often stands at what its mean would have
    earned.

    Args:
        discount: 0.99 remembers some hundred segments of a model.
        mixing: share of segments drawn evenly, for arms that nobody has estimates of.
        rate: at which rewards turn into preference.
    """

    explores = True
    wants_estimates = True

    def __init__(self, discount: float = 0.99, mixing: float = 0.03, rate: float = 0.5) -> None:
        self.shape = Shape("hedge", 2, discount)
        self._mixing = mixing
        self._rate = rate

    def evidence(self, observation: Observation) -> Mapping[Arm, Sequence[float]]:
        estimated = {arm: (1.0, reward) for arm, reward in observation.estimates.items()}
        return {**estimated, observation.arm: (1.0, observation.reward)}

    def choose(self, situation: Situation, random: np.random.Generator) -> Decision:
        gains = self._rate * situation.weights.max() * situation.means
        return drawn_by_gains(situation.arms, gains, self._mixing, random)

    def bonuses(self, situation: Situation) -> Figures:
        return np.zeros(len(situation.arms))
