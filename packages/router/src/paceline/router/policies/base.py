"""What a policy is: a pure choice between arms, given what was learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from paceline.router.arms import Arm
from paceline.router.statistics import ArmStats


@dataclass(frozen=True, slots=True)
class PolicyOptions:
    """What settings say to policies. `fixed_drafters` None is all of them."""

    fixed_drafters: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Situation:
    """What a policy sees when it chooses.

    Attributes:
        arms: to choose from; never empty, plain decoding always among them.
        stats: what was learnt of this model's arms, whether they can be chosen now or not.
        pending: segments that run under an arm at present and have not reported.
    """

    arms: Sequence[Arm]
    stats: Mapping[Arm, ArmStats]
    pending: Mapping[Arm, int]


class Policy(Protocol):
    """Chooses. What it knows is in the `Situation`; it learns by `Statistics.learn` with its `discount`."""

    discount: float
    """What is left of earlier segments' weight when a new one of the same model reports; in (0, 1]."""

    def choose(self, situation: Situation) -> Arm:
        """The arm for the next segment; the same for the same situation."""
        ...

    def bonus(self, arm: Arm, situation: Situation) -> float:
        """What the policy adds to the arm's mean for being uncertain of it."""
        ...
