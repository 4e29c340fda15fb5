"""Figures of routing.py."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from result_base import Count, Known, Name, Named, Number, Pair, Result, Series


class Regret(Known):
    regret: Number
    share_of_oracle: Number
    spread: Pair | None = None
    arm: Name = ""


class Routing(Result):
    """Of tools/bench/routing.py."""

    default_policy: Name
    scenes: Annotated[Named[Named[Regret]], Field(min_length=1)]
    curves: Named[Series | Named[Series]] = Field(default_factory=dict)
    liar: Named[Number] = Field(default_factory=dict)
    decision_ms_p99_by_policy: Named[Number] = Field(default_factory=dict)
    segments: Count
    seeds: Annotated[list[Count], Field(min_length=1, max_length=1000)]

    @property
    def points(self) -> list[float]:
        """After how many segments the curves have their points."""
        found = self.curves.get("segments", [])
        return found if isinstance(found, list) else []

    def curves_of(self, scene: str) -> dict[str, list[float]]:
        found = self.curves.get(scene, {})
        return found if isinstance(found, dict) else {}
