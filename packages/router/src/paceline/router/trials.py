"""Whether a drafter's new revision is better than the one at work. Pure.

Requests are drawn for the trial at random, so both sides see the same kinds of prompts and company. Segments of one
request resemble one another, so requests are what is counted as independent: the mean reward is a ratio of sums over
requests, and its variance that of a ratio under cluster sampling (Cochran, *Sampling Techniques*, 6.4 and 9A).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

MIN_REQUESTS = 8  # below that a variance says little


class Outcome(Enum):
    UNDECIDED = "undecided"
    BETTER = "better"
    WORSE = "worse"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Sums over requests of one side: how many, their segments n and rewards s, and n², s·n and s²."""

    requests: int = 0
    segments: int = 0
    reward: float = 0.0
    segments_squared: float = 0.0
    product: float = 0.0
    reward_squared: float = 0.0

    def with_request(self, segments: int, reward: float) -> Evidence:
        """With one more request, of so many segments with so much reward in all."""
        return Evidence(
            self.requests + 1,
            self.segments + segments,
            self.reward + reward,
            self.segments_squared + segments * segments,
            self.product + segments * reward,
            self.reward_squared + reward * reward,
        )

    @property
    def mean(self) -> float:
        """Reward of a segment; 0 without segments."""
        return self.reward / self.segments if self.segments else 0.0

    @property
    def variance(self) -> float:
        """Of the mean; infinite for fewer than two requests."""
        if self.requests < 2:
            return math.inf
        mean = self.mean
        residual = self.reward_squared - 2.0 * mean * self.product + mean * mean * self.segments_squared
        return max(residual, 0.0) * self.requests / (self.requests - 1) / self.segments**2


@dataclass(frozen=True, slots=True)
class Rule:
    """When a trial is decided, and how.

    Attributes:
        segments: that each side needs before anything is said.
        margin: by which share of the mean before a revision may be slower: it was trained on what is asked now, and may
            come to be better by that.
        certainty: standard errors by which the difference must exceed the margin, or fall short of it.
        patience: the trial's segments, as a multiple of `segments`, at which the mean decides however uncertain.

    In simulations whose requests differ by 20 % and their segments by 20 % again (`tests/trial_worlds.py`) a revision
    that is 10 % slower takes over in 1 of 100 trials and one that is 10 % faster does in 99, after some 100 segments;
    one as fast as before does in three of four, after 230.
    """

    segments: int = 40
    margin: float = 0.02
    certainty: float = 2.0
    patience: int = 8

    def decide(self, trial: Evidence, before: Evidence) -> Outcome:
        """From what was seen of a revision on trial and of the one before it, over the same time."""
        if min(trial.segments, before.segments) < self.segments:
            return Outcome.UNDECIDED
        if min(trial.requests, before.requests) < MIN_REQUESTS:
            return Outcome.UNDECIDED
        bar = 1.0 - self.margin
        lead = trial.mean - bar * before.mean
        error = math.sqrt(trial.variance + bar * bar * before.variance)
        if abs(lead) <= self.certainty * error and trial.segments < self.patience * self.segments:
            return Outcome.UNDECIDED
        return Outcome.BETTER if lead >= 0.0 else Outcome.WORSE
