"""Thompson sampling: draws what each arm may be worth, and takes the best draw.

Rewards of an arm are taken for normal with unknown mean and variance; the prior is normal-inverse-gamma, its posterior
follows from how many rewards there were, their sum and the sum of their squares (Murphy, *Conjugate Bayesian analysis
of the Gaussian distribution*, section 6; Honda and Takemura, *Optimality of Thompson Sampling for Gaussian Bandits
Depends on Priors*). The sums are discounted, as in Raj and Kalyani, *Taming Non-stationary Bandits: A Bayesian
Approach*. When to use it: many requests at once. Its draws differ, so they don't all try the same arm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from paceline.router.arms import Arm
from paceline.router.evidence import Observation, Shape
from paceline.router.policies.base import PLAIN_REWARD, Decision, Figures, Situation

PRIOR_WEIGHT = 0.25  # segments that the prior's mean, plain speed, counts for
PRIOR_SHAPE = 2.0
PRIOR_DEVIATION = 0.3  # of a segment's reward; requests and their segments differ by about that


class Thompson:
    """Draws a mean for each arm from its posterior; the greatest wins.

    Args:
        discount: 0.995 remembers some two hundred segments of a model.
    """

    explores = True
    wants_estimates = False

    def __init__(self, discount: float = 0.995) -> None:
        self.shape = Shape("thompson", 3, discount)

    def evidence(self, observation: Observation) -> Mapping[Arm, Sequence[float]]:
        reward = observation.reward
        return {observation.arm: (1.0, reward, reward * reward)}

    def choose(self, situation: Situation, random: np.random.Generator) -> Decision:
        mean, weight, shape, scale = _posterior(situation)
        deviation = np.sqrt(scale / random.standard_gamma(shape) / weight)
        draws = mean + deviation * random.standard_normal(len(mean))
        return Decision(situation.arms[int(np.argmax(draws))], probability=0.0)

    def bonuses(self, situation: Situation) -> Figures:
        """The posterior's standard deviation of each arm's mean."""
        _mean, weight, shape, scale = _posterior(situation)
        return np.sqrt(scale / np.maximum(shape - 1.0, 0.5) / weight)


def _posterior(situation: Situation) -> tuple[Figures, Figures, Figures, Figures]:
    """Of each arm: mean, its weight in segments, and shape and scale of the variance's inverse gamma."""
    count, total, squares = situation.sums.T
    means = situation.means
    weight = PRIOR_WEIGHT + count
    within = np.maximum(squares - total * means, 0.0)
    between = PRIOR_WEIGHT * count * (means - PLAIN_REWARD) ** 2 / weight
    shape = PRIOR_SHAPE + count / 2.0
    scale = PRIOR_SHAPE * PRIOR_DEVIATION**2 + (within + between) / 2.0
    return (PRIOR_WEIGHT * PLAIN_REWARD + total) / weight, weight + situation.pending, shape, scale
