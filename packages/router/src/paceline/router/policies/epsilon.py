"""Epsilon-greedy: the best mean, and now and then any arm. The yardstick that other policies have to beat.

Sutton and Barto, *Reinforcement Learning*, 2.2; with discounted means, so that it follows drift.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from paceline.router.arms import Arm
from paceline.router.evidence import Observation, Shape
from paceline.router.policies.base import Decision, Figures, Situation, counted, drawn


class Epsilon:
    """Draws any arm with probability epsilon, else takes the best mean; arms without segments come first.

    Args:
        discount: 0.99 remembers some hundred segments of a model.
        epsilon: share of segments that explore.
    """

    explores = True
    wants_estimates = False

    def __init__(self, discount: float = 0.99, epsilon: float = 0.05) -> None:
        self.shape = Shape("epsilon", 2, discount)
        self._epsilon = epsilon

    def evidence(self, observation: Observation) -> Mapping[Arm, Sequence[float]]:
        return counted(observation)

    def choose(self, situation: Situation, random: np.random.Generator) -> Decision:
        untried = situation.weights + situation.pending <= 0.0
        best = int(np.argmax(np.where(untried, np.inf, situation.means)))
        probabilities = np.full(len(situation.arms), self._epsilon / len(situation.arms))
        probabilities[best] += 1.0 - self._epsilon
        index = drawn(probabilities, random)
        return Decision(situation.arms[index], float(probabilities[index]))

    def bonuses(self, situation: Situation) -> Figures:
        return np.zeros(len(situation.arms))
