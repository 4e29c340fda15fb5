"""What a policy is: a pure choice between arms, given the evidence, and what evidence a segment is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from paceline.router.arms import Arm
from paceline.router.evidence import Observation, Shape, Sums

PLAIN_REWARD = 1.0  # the reward of plain decoding, and what is assumed of an arm of which nothing is known

Figures = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class PolicyOptions:
    """What settings say to policies. `fixed_drafters` None is all of them."""

    fixed_drafters: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Situation:
    """What a policy sees when it chooses.

    Attributes:
        arms: to choose from; never empty, plain decoding always among them.
        sums: [arms, width], what was learnt of each of them.
        pending: [arms], segments that run under an arm at present and have not reported.
        context: features of the request and its verifier, see `paceline.router.context`.
    """

    arms: Sequence[Arm]
    sums: Sums
    pending: Figures
    context: tuple[float, ...]

    @property
    def weights(self) -> Figures:
        """[arms], discounted segments of each."""
        return self.sums[:, 0]

    @property
    def means(self) -> Figures:
        """[arms], mean rewards; plain decoding's for arms of which nothing is known."""
        known = self.weights > 0.0
        return np.where(known, self.sums[:, 1] / np.where(known, self.weights, 1.0), PLAIN_REWARD)


@dataclass(frozen=True, slots=True)
class Decision:
    """An arm, and the probability with which the policy draws it in this situation; 0 if it can't tell."""

    arm: Arm
    probability: float = 1.0
    context: tuple[float, ...] = ()


class Policy(Protocol):
    """Chooses. It keeps nothing: what it knows is in the `Situation`, what chance there is in `random`."""

    shape: Shape
    """Of its evidence."""
    explores: bool
    """It may choose an arm because nothing is known of it."""
    wants_estimates: bool
    """It learns from `Observation.estimates`, so verifiers are asked for them, which costs them some time."""

    def evidence(self, observation: Observation) -> Mapping[Arm, Sequence[float]]:
        """What a segment adds to the sums of arms; finite whatever the observation."""
        ...

    def choose(self, situation: Situation, random: np.random.Generator) -> Decision:
        """The arm for the next segment; the same for the same situation and draws."""
        ...

    def bonuses(self, situation: Situation) -> Figures:
        """[arms], what the policy grants each for being uncertain of it: not negative, infinite for an arm that it
        would try before any other."""
        ...


def counted(observation: Observation) -> dict[Arm, tuple[float, float]]:
    """The evidence of policies that count segments and add up rewards."""
    return {observation.arm: (1.0, observation.reward)}


def drawn(probabilities: Figures, random: np.random.Generator) -> int:
    """An index drawn with these probabilities, which add up to 1."""
    found = int(np.searchsorted(np.cumsum(probabilities), random.random(), side="right"))
    return min(found, len(probabilities) - 1)


def drawn_by_gains(arms: Sequence[Arm], gains: Figures, mixing: float, random: np.random.Generator) -> Decision:
    """An arm drawn with probability (1 - mixing) · softmax(gains) + mixing / arms."""
    preference = np.exp(gains - gains.max())
    probabilities = (1.0 - mixing) * preference / preference.sum() + mixing / len(preference)
    index = drawn(probabilities, random)
    return Decision(arms[index], float(probabilities[index]))
