"""LinUCB: what an arm is worth depends on the prompt.

Li, Chu, Langford and Schapire, *A Contextual-Bandit Approach to Personalized News Article Recommendation* (disjoint
models), with discounted sums as in Russac, Vernade and Cappé, *Weighted Linear Bandits for Non-Stationary
Environments*. Each arm has a ridge regression of reward on the request's features. When to use it: prompts of several
kinds share a router, as a rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from paceline.router.arms import Arm
from paceline.router.context import NEUTRAL, NUM_FEATURES
from paceline.router.evidence import Observation, Shape
from paceline.router.policies.base import PLAIN_REWARD, Decision, Figures, Situation

# The evidence: A = Σxx', its upper triangle row by row, b = Σ reward · x, and Σ reward². The first feature is 1, so A
# begins with the number of segments and b with the sum of rewards; those two lead, as in every policy's evidence.
_UPPER = np.triu_indices(NUM_FEATURES)
_NUM_UPPER = len(_UPPER[0])
_WIDTH = _NUM_UPPER + NUM_FEATURES + 1

_ASSUMED_DEVIATION = 0.3  # of a segment's reward from what is expected, before anything is known
_ASSUMED_WEIGHT = 8.0  # segments that this counts for


class LinUcb:
    """Chooses the greatest x·theta + exploration · deviation · sqrt(x'(A + R)^-1 x).

    theta = (A + R)^-1 (b + R theta_0). theta_0 is plain speed whatever the prompt: what an arm is taken for before
    anything is known of it. The penalty R is small for the mean and larger for what depends on features, so an arm's
    mean is learnt first. Segments that still run make an arm's uncertainty smaller, as if they had been like this one.
    Each arm is tried once before any other counts.

    Args:
        discount: 0.995 remembers some two hundred segments of a model.
        exploration: in standard deviations of what is expected of an arm. How much rewards scatter is learnt too, so
            that little is tried where all arms do as expected.
        penalty: R for the features; the mean's is a tenth of it.
    """

    explores = True
    wants_estimates = False

    def __init__(self, discount: float = 0.995, exploration: float = 1.0, penalty: float = 1.0) -> None:
        self.shape = Shape("linucb", _WIDTH, discount)
        self._exploration = exploration
        self._ridge = np.diag([0.1 * penalty] + [penalty] * (NUM_FEATURES - 1))
        self._prior = self._ridge @ np.array([PLAIN_REWARD] + [0.0] * (NUM_FEATURES - 1))

    def evidence(self, observation: Observation) -> Mapping[Arm, Sequence[float]]:
        x = np.array(observation.context or NEUTRAL)
        vector = np.empty(_WIDTH)
        vector[0], vector[1] = 1.0, observation.reward
        vector[2 : _NUM_UPPER + 1] = np.outer(x, x)[_UPPER][1:]
        vector[_NUM_UPPER + 1 : -1] = observation.reward * x[1:]
        vector[-1] = observation.reward**2
        return {observation.arm: vector.tolist()}

    def choose(self, situation: Situation, random: np.random.Generator) -> Decision:
        speeds, deviations = self._predict(situation)
        return Decision(situation.arms[int(np.argmax(speeds + self._granted(situation, deviations)))])

    def bonuses(self, situation: Situation) -> Figures:
        return self._granted(situation, self._predict(situation)[1])

    def _granted(self, situation: Situation, deviations: Figures) -> Figures:
        tried = situation.weights + situation.pending > 0.0
        return np.where(tried, self._exploration * deviations, np.inf)

    def _predict(self, situation: Situation) -> tuple[Figures, Figures]:
        """[arms]: the reward that each may be expected to earn here, and that estimate's standard deviation."""
        x = np.array(situation.context or NEUTRAL)
        sums = situation.sums
        a = np.empty((len(sums), NUM_FEATURES, NUM_FEATURES))
        upper = np.concatenate([sums[:, :1], sums[:, 2 : _NUM_UPPER + 1]], axis=1)
        a[:, _UPPER[0], _UPPER[1]] = a[:, _UPPER[1], _UPPER[0]] = upper
        b = np.concatenate([sums[:, 1:2], sums[:, _NUM_UPPER + 1 : -1]], axis=1)
        wanted = np.stack([np.broadcast_to(x, b.shape), b + self._prior], axis=2)
        directions, thetas = np.moveaxis(_solved(a + self._ridge, wanted), 2, 0)
        variance = np.maximum(directions @ x, 0.0)
        variance /= 1.0 + situation.pending * variance  # A + pending · xx', by Sherman and Morrison
        return thetas @ x, _deviation(sums, a, b, thetas) * np.sqrt(variance)


def _deviation(sums: Figures, a: Figures, b: Figures, thetas: Figures) -> float:
    """Of a segment's reward from what is expected of it: that of all arms together, about an assumption that matters
    while little is known."""
    explained = 2.0 * np.einsum("ij,ij->i", thetas, b) - np.einsum("ij,ijk,ik->i", thetas, a, thetas)
    residual = np.maximum(sums[:, -1] - explained, 0.0).sum()
    assumed = _ASSUMED_WEIGHT * _ASSUMED_DEVIATION**2
    return float(np.sqrt((assumed + residual) / (_ASSUMED_WEIGHT + max(0.0, sums[:, 0].sum()))))


def _solved(matrices: Figures, wanted: Figures) -> Figures:
    """[arms, features, columns]: each matrix's inverse times its columns. Sums from a store that others write to may
    not be sums of squares; an arm whose matrix can't be solved is expected to earn nothing."""
    try:
        return np.linalg.solve(matrices, wanted)
    except np.linalg.LinAlgError:
        return np.stack([_solved_alone(matrix, columns) for matrix, columns in zip(matrices, wanted, strict=True)])


def _solved_alone(matrix: Figures, columns: Figures) -> Figures:
    try:
        return np.linalg.solve(matrix, columns)
    except np.linalg.LinAlgError:
        return np.zeros(columns.shape)
