"""Simulated traffic for trials: requests of several segments that resemble one another, with noisy rewards."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

from paceline.router.trial_book import TrialBook, Verdict
from paceline.router.trials import Outcome, Rule

MAX_REQUESTS = 20_000


@dataclass(frozen=True)
class World:
    """How rewards come about.

    Attributes:
        before, trial: mean rewards.
        request_noise: standard deviation between requests, as a share of the mean; prompts differ that much.
        segment_noise: the same between segments of a request.
        mean_segments: of a request.
    """

    before: float = 1.5
    trial: float = 1.5
    request_noise: float = 0.2
    segment_noise: float = 0.2
    mean_segments: float = 3.0

    def request(self, rng: random.Random, on_trial: bool) -> tuple[int, float]:
        """Segments and their rewards together."""
        mean = self.trial if on_trial else self.before
        level = mean * max(0.1, rng.gauss(1.0, self.request_noise))
        count = 1 + min(60, int(rng.expovariate(1.0 / self.mean_segments)))
        return count, sum(min(8.0, max(0.0, level + mean * rng.gauss(0.0, self.segment_noise))) for _ in range(count))


def run_trial(world: World, rule: Rule, every: int, seed: int) -> tuple[Verdict, int]:
    """The verdict and after how many requests it came."""
    rng = random.Random(seed)
    book = TrialBook(rule, every, rng.random)
    for number in range(MAX_REQUESTS):
        drawn = book.drawn("t")
        if drawn is None:
            return book.verdict("t"), number
        book.learn("t", drawn, *world.request(rng, drawn))
    return book.verdict("t"), MAX_REQUESTS


def outcomes(world: World, count: int, rule: Rule | None = None, every: int = 8) -> tuple[Counter[Outcome], float]:
    """How often each verdict, and the mean of the trial's segments."""
    found: Counter[Outcome] = Counter()
    segments = 0
    for seed in range(count):
        verdict, _ = run_trial(world, rule or Rule(), every, seed)
        found[verdict.outcome] += 1
        segments += verdict.trial.segments
    return found, segments / count
