"""Figures of adaptation.py."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from result_base import Count, Counts, Known, Name, Named, Number, Result, Words

MOST_EVENTS = 2000


class Judged(Known):
    acceptance_start: Number
    acceptance_end: Number
    tokens_per_step_start: Number
    tokens_per_step_end: Number


class OfDomain(Known):
    tokens: Count
    online: Judged
    frozen: Judged


class Held(Known):
    acceptance: Number
    tokens_per_step: Number


class Probe(Known):
    domain: Name
    when: Name
    tokens: Count
    online: Held
    frozen: Held


class Request(Known):
    drafter: Name
    at_s: Number
    tokens: Count
    steps: Count
    lessons: Count


class Event(Known):
    what: Name
    at_s: Number
    tokens: Count | None = None


class Adaptation(Result):
    """Of tools/bench/adaptation.py. Probes, requests and events are as `adaptation_figures.py` takes them."""

    online: Judged
    frozen: Judged
    domains: Named[OfDomain]
    probes: Annotated[list[Probe], Field(max_length=MOST_EVENTS)] = Field(default_factory=list)
    requests: Annotated[list[Request], Field(max_length=200_000)] = Field(default_factory=list)
    events: Annotated[list[Event], Field(max_length=MOST_EVENTS)] = Field(default_factory=list)
    serving_ratio_while_training: Number | None = None
    swaps: Count
    failed_requests: Count
    identical: Counts
    error: Words = ""
    tokens_per_domain: list[Count] = Field(default_factory=list)
    max_new_tokens: Count | None = None
    asked: Name = ""
    revision: Name = ""
