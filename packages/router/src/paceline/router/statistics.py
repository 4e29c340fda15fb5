"""What was learnt: for each model and arm, discounted pulls and rewards. Values; learning makes a new one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from paceline.router.arms import Arm

FORGOTTEN_PULLS = 1e-3  # an arm whose discounted pulls fall under this says nothing any more and is dropped
MAX_TEXT = 8000

Row = tuple[str, str, float, float]


@dataclass(frozen=True, slots=True)
class ArmStats:
    """Discounted sums over the segments of one arm: how many, and their rewards."""

    pulls: float = 0.0
    reward_sum: float = 0.0

    @property
    def mean(self) -> float:
        return self.reward_sum / self.pulls if self.pulls else 0.0


@dataclass(frozen=True, slots=True)
class Observation:
    """One segment's reward."""

    model: str
    arm: Arm
    reward: float


@dataclass(frozen=True, slots=True)
class Statistics:
    """`ArmStats` by model and arm."""

    by_model: Mapping[str, Mapping[Arm, ArmStats]] = field(default_factory=lambda: MappingProxyType({}))

    def of(self, model: str) -> Mapping[Arm, ArmStats]:
        return self.by_model.get(model, {})

    def learn(self, observation: Observation, discount: float) -> Statistics:
        """With one more segment: all arms of its model are discounted, then its arm gets the reward.

        Discounting by segment of the model, not by time: an idle night forgets nothing.
        """
        arms = {
            arm: ArmStats(stats.pulls * discount, stats.reward_sum * discount)
            for arm, stats in self.of(observation.model).items()
        }
        before = arms.get(observation.arm, ArmStats())
        arms[observation.arm] = ArmStats(before.pulls + 1.0, before.reward_sum + observation.reward)
        kept = {arm: stats for arm, stats in arms.items() if stats.pulls >= FORGOTTEN_PULLS}
        return Statistics({**self.by_model, observation.model: kept})

    def rows(self) -> list[Row]:
        """(model, arm as text, pulls, sum of rewards) for each arm: JSON-able, and what stores keep."""
        return [
            (model, arm.to_text(), stats.pulls, stats.reward_sum)
            for model, arms in self.by_model.items()
            for arm, stats in arms.items()
        ]

    @staticmethod
    def from_rows(rows: Iterable[Row]) -> Statistics:
        """Raises ValueError for rows that `rows` doesn't make."""
        by_model: dict[str, dict[Arm, ArmStats]] = {}
        for model, text, pulls, reward_sum in rows:
            if not isinstance(model, str) or not isinstance(text, str) or len(text) > MAX_TEXT:
                raise ValueError("an arm's row begins with two texts")
            for number in (pulls, reward_sum):
                if not isinstance(number, int | float) or not math.isfinite(number) or number < 0.0:
                    raise ValueError("an arm's sums are finite and not negative")
            by_model.setdefault(model, {})[Arm.from_text(text)] = ArmStats(float(pulls), float(reward_sum))
        return Statistics(by_model)
