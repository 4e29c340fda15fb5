"""What was learnt of the arms of one model: sums that are discounted and added, and nothing else.

All that a policy knows of an arm is a vector of sums over its segments, each worth less with every later segment
of the model. So knowledge is merged by addition. Evidence of k later segments on top of evidence of j earlier ones
is evidence of j + k segments, in which the earlier sums count discount^k: an associative operation. One segment, a
batch of a router and what a store holds of all routers are the same kind of value, and whoever adds up a history in
whatever portions comes to the same sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from paceline.router.arms import Arm

Sums = NDArray[np.float64]

FORGOTTEN = 1e-6  # an arm whose weight falls under this says nothing any more and is dropped
MAX_ARMS = 256  # of a model; those with the least weight go first
UNIT = "time"  # what rewards are made of, see `paceline.router.reward`; sums in other units can't be added
NO_ESTIMATES: Mapping[Arm, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Shape:
    """What evidence consists of. Evidence of different shapes can't be added.

    Attributes:
        policy: whose it is.
        width: length of an arm's vector. Its first two are always the same: the weight of what was heard of the arm
            (discounted segments) and the discounted sum of their rewards.
        discount: what is left of earlier segments' weight when a new one of the same model reports; in (0, 1].
    """

    policy: str
    width: int
    discount: float

    def __str__(self) -> str:
        return f"{self.policy}/{self.width}/{self.discount:.6g}/{UNIT}"


@dataclass(frozen=True, slots=True)
class Observation:
    """One segment's reward, and under what circumstances it was earned.

    Attributes:
        model: the target.
        arm: in force during the segment.
        reward: see `paceline.router.reward`.
        probability: with which the policy drew this arm; 0 if it didn't draw it, or doesn't know.
        context: features of the situation in which it was chosen, see `paceline.router.context`; () if unknown.
        estimates: what the segment would have earned under other arms, for those of which that is known.
    """

    model: str
    arm: Arm
    reward: float
    probability: float = 0.0
    context: tuple[float, ...] = ()
    estimates: Mapping[Arm, float] = field(default_factory=lambda: NO_ESTIMATES)


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """Discounted sums of one model's arms. A value: adding makes a new one.

    Attributes:
        segments: that were added up, by all who contributed; the clock by which sums are discounted. An idle night
            forgets nothing.
        rows: an arm's row in `sums`.
        sums: [arms, width], as of now.
    """

    segments: int
    rows: Mapping[Arm, int]
    sums: Sums

    @staticmethod
    def nothing(width: int) -> Evidence:
        return Evidence(0, {}, np.zeros((0, width)))

    @staticmethod
    def of(vectors: Mapping[Arm, Sequence[float] | Sums], segments: int = 1) -> Evidence:
        """Of these arms' vectors, of which there is at least one, after so many segments."""
        rows = {arm: row for row, arm in enumerate(vectors)}
        return Evidence(segments, rows, np.array(list(vectors.values()), dtype=np.float64))

    def then(self, later: Evidence, discount: float) -> Evidence:
        """With what was learnt after it."""
        sums = self.sums * discount**later.segments
        rows = self.rows
        if later.rows.keys() - rows.keys():
            rows = dict(rows)
            for arm in later.rows:
                rows.setdefault(arm, len(rows))
            sums = np.concatenate([sums, np.zeros((len(rows) - len(sums), later.sums.shape[1]))])
        sums[[rows[arm] for arm in later.rows]] += later.sums
        return Evidence(self.segments + later.segments, rows, sums)._remembered()

    def of_arms(self, arms: Sequence[Arm]) -> Sums:
        """[arms, width]; zeros for those of which nothing is known."""
        if not self.rows:
            return np.zeros((len(arms), self.sums.shape[1]))
        found = [self.rows.get(arm, -1) for arm in arms]
        sums = self.sums[found]
        if -1 in found:
            sums[[row < 0 for row in found]] = 0.0
        return sums

    def vectors(self) -> Iterator[tuple[Arm, Sums]]:
        """Each arm of which something is known, with its sums."""
        return ((arm, self.sums[row]) for arm, row in self.rows.items())

    def _remembered(self) -> Evidence:
        """Without arms of which next to nothing is left, and no more than `MAX_ARMS`."""
        weights = self.sums[:, 0]
        if len(weights) <= MAX_ARMS and weights.min(initial=np.inf) >= FORGOTTEN:
            return self
        order = sorted(self.rows.items(), key=lambda item: -weights[item[1]])[:MAX_ARMS]
        kept = [(arm, row) for arm, row in order if weights[row] >= FORGOTTEN]
        rows = {arm: new for new, (arm, _old) in enumerate(kept)}
        return Evidence(self.segments, rows, self.sums[[row for _arm, row in kept]])


Knowledge = Mapping[str, Evidence]
"""Evidence by model."""


def merged(earlier: Knowledge, later: Knowledge, discount: float) -> dict[str, Evidence]:
    """Of all models, those of `later` on top of `earlier`."""
    both = dict(earlier)
    for model, evidence in later.items():
        both[model] = both[model].then(evidence, discount) if model in both else evidence
    return both
