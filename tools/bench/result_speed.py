"""Figures of speed.py."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from result_base import Count, Counts, Known, Name, Named, Number, Pair, Ranges, Rates, Result, Series


class Distribution(Known):
    median: Number
    quartiles: Pair
    range: Pair
    count: Count


class Runs(Known):
    mean: Number
    sd: Number | None = None
    runs: Series


class Repeat(Known):
    tokens_per_second: Rates
    ratios: Rates = Field(default_factory=dict)


class Spread(Known):
    tokens_per_second: Ranges
    ratios: Ranges = Field(default_factory=dict)


class ByQuestion(Known):
    tokens_per_second: Named[Named[Distribution]]
    on_over_off: Named[Distribution] = Field(default_factory=dict)


class SpecBench(Known):
    mean_accepted_tokens: Named[Number]
    tokens_per_second: Named[Named[Runs]]
    speedup: Named[Runs]


class AtOnce(Known):
    tokens_per_second: Number
    over_one: Number
    identical: Counts


class Crowd(Known):
    off: AtOnce | None = None
    on: AtOnce | None = None
    on_over_off: Number | None = None


class Gaps(Known):
    prompt_tokens: Count
    prefill_s: Number
    longest_gap_ms: Number
    stretch: Number


class Peer(Known):
    dtype: Name
    threads: Count


class Different(Known):
    question_id: Name
    turn: Count
    token: Count


class Speed(Result):
    """Of tools/bench/speed.py."""

    tokens_per_second: Annotated[Rates, Field(min_length=1)]
    tokens_per_step: Named[Number]
    ratios: Rates
    identical: Named[Counts]
    different: list[Different] = Field(default_factory=list)
    spread: Spread
    repeats: Annotated[list[Repeat], Field(max_length=1000)] = Field(default_factory=list)
    by_question: ByQuestion | None = None
    spec_bench: SpecBench | None = None
    concurrency: Named[Crowd] = Field(default_factory=dict)
    interference: Named[Gaps] = Field(default_factory=dict)
    questions: Count
    max_new_tokens: Count
    repeat: Count
    drafters: list[list[Name]] = Field(default_factory=list)
    memory: bool | None = None
    verifier_args: list[Name] = Field(default_factory=list)
    transformers: Peer | None = None
    asked: Name = ""

    @property
    def groups(self) -> list[str]:
        return list(next(iter(self.tokens_per_second.values())))

    @property
    def runs(self) -> int:
        """Repeats that cover all questions, which is what spreads are of."""
        return len(self.repeats) or self.repeat
