"""The figures of a suite as a flat list, for programs and for comparing two suites.

Each figure is defined where it is computed (`figures.py`, `question_figures.py`, `acceptance_figures.py`,
`routing_figures.py`, `adaptation_figures.py`); nothing is computed anew here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from figures import OFF, ON
from result_acceptance import Acceptance
from result_adaptation import Adaptation
from result_base import Result
from result_routing import Routing
from result_speed import Speed
from suite import Suite


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure with its spread.

    Attributes:
        name: what it is, such as "on ÷ off".
        of: which one: a group, a mix of drafters, a scene, a domain.
        low, high: least and greatest of `runs` runs; both None where there is one run only.
        better: which way is better.
    """

    part: str
    name: str
    of: str
    value: float
    low: float | None
    high: float | None
    runs: int
    better: Literal["higher", "lower"]

    @property
    def key(self) -> tuple[str, str, str]:
        return self.part, self.name, self.of


def figures_of(suite: Suite) -> list[Figure]:
    """Of all parts that have figures."""
    return [figure for part in suite.parts if part.result for figure in of_result(part.result)]


def as_json(figures: list[Figure]) -> list[dict[str, Any]]:
    return [asdict(figure) for figure in figures]


def of_result(result: Result) -> Iterator[Figure]:
    match result:
        case Speed():
            yield from _of_speed(result)
        case Acceptance():
            yield from _of_acceptance(result)
        case Routing():
            yield from _of_routing(result)
        case Adaptation():
            yield from _of_adaptation(result)


def _of_speed(found: Speed) -> Iterator[Figure]:
    speeds, ranges_of = found.tokens_per_second, found.spread.tokens_per_second
    tables = [
        ("tokens/s, speculation on", speeds.get(ON, {}), ranges_of.get(ON, {})),
        ("tokens/s, speculation off", speeds.get(OFF, {}), ranges_of.get(OFF, {})),
        ("on ÷ off", found.ratios.get("on_over_off", {}), found.spread.ratios.get("on_over_off", {})),
    ]
    for name, values, ranges in tables:
        for group, value in values.items():
            low, high = ranges[group] if group in ranges and found.runs > 1 else (None, None)
            yield Figure("speed", name, group, value, low, high, found.runs if low is not None else 1, "higher")
    for group, value in found.tokens_per_step.items():
        yield Figure("speed", "tokens per step", group, value, None, None, 1, "higher")


def _of_acceptance(found: Acceptance) -> Iterator[Figure]:
    for mix, its in found.mixes.items():
        yield Figure("acceptance", "tokens per step", mix, its.tokens_per_step, None, None, 1, "higher")
        yield Figure("acceptance", "drafting, ms per token", mix, its.draft_ms_per_token, None, None, 1, "lower")
        yield Figure("acceptance", "wire, bytes per token", mix, its.wire_bytes_per_token, None, None, 1, "lower")


def _of_routing(found: Routing) -> Iterator[Figure]:
    policy = found.default_policy
    for scene, figures in found.scenes.items():
        if policy in figures:
            regret = figures[policy]
            low, high = regret.spread if regret.spread and len(found.seeds) > 1 else (None, None)
            runs = len(found.seeds) if low is not None else 1
            yield Figure("routing", f"regret of {policy}", scene, regret.regret, low, high, runs, "lower")


def _of_adaptation(found: Adaptation) -> Iterator[Figure]:
    for name, judged in (("refitted", found.online), ("left alone", found.frozen)):
        for figure, value in (
            ("tokens per step", judged.tokens_per_step_end),
            ("acceptance", judged.acceptance_end),
        ):
            yield Figure("adaptation", f"{figure} after the traffic", name, value, None, None, 1, "higher")
