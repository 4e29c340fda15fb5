"""Whether a refitted drafter may replace the one it came from: judged on lessons that neither has learned from.

Both are scored on the same texts, so what the texts differ by drops out: the mean of the differences is compared with
its own standard error (a paired test). A gain within the noise is none: each swap costs something, and a chain of
lucky ones drifts anywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Scores:
    """How a drafter does on held-out lessons.

    Attributes:
        right: tokens of each lesson that it would have said itself [lessons].
        tokens: of each lesson [lessons].
    """

    right: Counts
    tokens: Counts

    @property
    def acceptance(self) -> float:
        return float(self.right.sum() / max(1, self.tokens.sum()))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate says.

    Attributes:
        passes: the new one may be published.
        before, after: acceptance of the old and of the new one.
        error: standard error of the difference.
        why: for people.
    """

    passes: bool
    before: float
    after: float
    error: float
    why: str


@dataclass(frozen=True, slots=True)
class Gate:
    """What is asked of a revision.

    Attributes:
        least_lessons, least_tokens: held-out ones, below which nothing is decided and nothing passes.
        least_gain: of acceptance.
        sigmas: standard errors by which the gain must exceed 0. 1 lets one of six useless revisions through; it would
            be on trial next.
    """

    least_lessons: int = 8
    least_tokens: int = 512
    least_gain: float = 0.002
    sigmas: float = 1.0

    def can_judge(self, num_lessons: int, num_tokens: int) -> bool:
        """Whether so much is held out that a refit may pass."""
        return num_lessons >= self.least_lessons and num_tokens >= self.least_tokens

    def judge(self, before: Scores, after: Scores) -> Verdict:
        """Compares two drafters on the same lessons."""
        if not np.array_equal(before.tokens, after.tokens):
            raise ValueError("both must be scored on the same lessons")
        num_lessons, num_tokens = len(before.tokens), int(before.tokens.sum())
        gain = after.acceptance - before.acceptance
        error = _error(after.right - before.right, before.tokens)
        found = f"acceptance {before.acceptance:.4f} before, {after.acceptance:.4f} after, standard error {error:.4f}"
        if not self.can_judge(num_lessons, num_tokens):
            asked = f"{self.least_lessons} lessons of {self.least_tokens} tokens"
            why = f"held out are {num_lessons} lessons of {num_tokens} tokens; at least {asked} are needed"
            return Verdict(False, before.acceptance, after.acceptance, error, why)
        passes = gain >= self.least_gain and gain > self.sigmas * error
        why = found if passes else f"{found}: no gain beyond {max(self.least_gain, self.sigmas * error):.4f}"
        return Verdict(passes, before.acceptance, after.acceptance, error, why)


def _error(differences: Counts, tokens: Counts) -> float:
    """Standard error of sum(differences) / sum(tokens): lessons are drawn, not tokens, which depend on one another."""
    count = len(tokens)
    total = float(tokens.sum())
    if count < 2 or total == 0.0:
        return math.inf
    rate = float(differences.sum()) / total
    residuals = differences - rate * tokens
    return math.sqrt(count / (count - 1) * float((residuals**2).sum())) / total
