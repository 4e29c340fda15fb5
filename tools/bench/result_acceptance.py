"""Figures of acceptance.py."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from result_base import Count, Counts, Known, Name, Named, Number, Rates, Result, Series, Words


class Part(Known):
    tested: Count
    right: Count
    acceptance: Number
    acceptance_by_depth: Series


class OfDrafter(Known):
    draft_ms_per_token: Number
    wire_bytes_per_token: Named[Number]
    strategies: Named[Part]


class Mix(Known):
    tokens_per_step: Number
    tokens_per_step_by_group: Named[Number] = Field(default_factory=dict)
    acceptance_by_depth: Series
    tested_by_depth: Series
    tokens_by_depth: Series
    drafted_steps: Number
    draft_ms_per_token: Number
    wire_bytes_per_token: Number
    identical: Counts
    drafters: Named[OfDrafter] = Field(default_factory=dict)


class Acceptance(Result):
    """Of tools/bench/acceptance.py."""

    mixes: Annotated[Named[Mix], Field(min_length=1)]
    warnings: list[Words] = Field(default_factory=list)
    questions: Count
    max_new_tokens: Count
    temperature: Number = 0.0
    drafting: Name = ""
    memory: bool | None = None
    verifier_args: list[Name] = Field(default_factory=list)
    bridges: Rates | None = None
    asked: Name = ""
