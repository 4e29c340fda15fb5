"""A routing policy of one's own: the arm whose mean reward is good even if its luck so far was good too."""

import sys
from collections.abc import Mapping, Sequence

import numpy as np

from paceline.router.arms import Arm
from paceline.router.evidence import Observation, Shape
from paceline.router.policies.base import Decision, Figures, Situation


class Cautious:
    """The greatest mean less its standard error; one segment in twenty goes to the arm that was heard of least."""

    explores = True  # it may choose an arm because nothing is known of it
    wants_estimates = False  # needs no scores of drafters that weren't engaged

    def __init__(self, discount: float = 0.99, curiosity: float = 0.05) -> None:
        self.shape = Shape("cautious", 3, discount)  # three sums an arm: segments, rewards, squares of rewards
        self._curiosity = curiosity

    def evidence(self, observation: Observation) -> Mapping[Arm, Sequence[float]]:
        return {observation.arm: (1.0, observation.reward, observation.reward**2)}

    def choose(self, situation: Situation, random: np.random.Generator) -> Decision:
        heard = situation.weights + situation.pending
        if heard.min() <= 0.0 or random.random() < self._curiosity:
            return Decision(situation.arms[int(np.argmin(heard))], probability=0.0)
        sure = situation.means - np.sqrt(self._variances(situation) / heard)
        return Decision(situation.arms[int(np.argmax(sure))], probability=0.0)

    def bonuses(self, situation: Situation) -> Figures:
        return np.zeros(len(situation.arms))  # doubt is no bonus

    def _variances(self, situation: Situation) -> Figures:
        """Of a segment's reward under each arm: what was seen, as if one more segment had been off by 0.3."""
        squares = situation.sums[:, 2] - situation.sums[:, 1] * situation.means
        return (np.maximum(squares, 0.0) + 0.09) / (situation.weights + 1.0)


if __name__ == "__main__":
    from paceline.router.__main__ import main
    from paceline.router.policies import POLICIES

    POLICIES["cautious"] = lambda _options: Cautious()
    sys.exit(main())
