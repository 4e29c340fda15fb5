"""Two suites compared, with their spread in mind: pure arithmetic.

Times of different machines can't be compared, nor figures of different questions or settings; then it is said why, and
no difference is shown. A difference counts as *beyond the spread* where the runs' ranges don't meet. By chance alone n
and m equal runs come apart in 2·n!·m!/(n+m)! of cases, either way: with 3 and 3 runs in 10 %, so of many figures some
will. One run has no spread and shows nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any, Literal

from suite import Suite, machine_id
from suite_figures import Figure, figures_of
from suite_results import PARTS

Verdict = Literal["better", "worse", "within the spread", "no spread"]
CONDITIONS = {
    "speed": ("model", "dtype", "asked", "questions", "max_new_tokens", "drafters", "memory", "verifier_args"),
    "acceptance": (
        *("model", "dtype", "asked", "questions", "max_new_tokens", "temperature", "drafting", "memory"),
        "verifier_args",
    ),
    "routing": ("default_policy", "segments", "seeds"),
    "adaptation": ("model", "dtype", "asked", "max_new_tokens", "tokens_per_domain", "revision"),
}


@dataclass(frozen=True, slots=True)
class Difference:
    """Of one figure. `change` is relative to the earlier value, None where that is 0."""

    earlier: Figure
    later: Figure
    change: float | None
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Comparison:
    """With an earlier suite.

    Attributes:
        obstacles: by part ("" for all of it) why it can't be compared.
        missing: figures that only one of the two has, by part and name.
    """

    earlier: Suite
    obstacles: Mapping[str, str]
    differences: Sequence[Difference]
    missing: Sequence[tuple[str, str, str]]


def compare_suites(earlier: Suite, later: Suite) -> Comparison:
    """What became better and what worse."""
    obstacles = _obstacles(earlier, later)
    if "" in obstacles:
        return Comparison(earlier, obstacles, [], [])
    before = {figure.key: figure for figure in figures_of(earlier) if figure.part not in obstacles}
    after = {figure.key: figure for figure in figures_of(later) if figure.part not in obstacles}
    differences = [difference(before[key], after[key]) for key in after if key in before]
    missing = [key for key in (*before, *after) if key not in before or key not in after]
    return Comparison(earlier, obstacles, differences, missing)


def difference(earlier: Figure, later: Figure) -> Difference:
    change = (later.value - earlier.value) / abs(earlier.value) if earlier.value else None
    return Difference(earlier, later, change, _verdict(earlier, later))


def chance_of_parting(runs: int, other_runs: int) -> float:
    """How often the ranges of equal runs don't meet by chance alone."""
    return min(1.0, 2.0 / comb(runs + other_runs, runs))


def _verdict(earlier: Figure, later: Figure) -> Verdict:
    if earlier.low is None or earlier.high is None or later.low is None or later.high is None:
        return "no spread"
    if later.low > earlier.high:
        return "better" if later.better == "higher" else "worse"
    if later.high < earlier.low:
        return "worse" if later.better == "higher" else "better"
    return "within the spread"


def _obstacles(earlier: Suite, later: Suite) -> dict[str, str]:
    machines = [{machine_id(machine) for machine in suite.machines} for suite in (earlier, later)]
    if not all(machines):
        return {"": "one of the two reports has no figures"}
    if machines[0] != machines[1] or len(machines[0]) > 1:
        before, after = ("; ".join(map(machine_words, suite.machines)) for suite in (earlier, later))
        return {"": f"the machines differ, so times say nothing about the software: earlier {before}; now {after}"}
    found: dict[str, str] = {}
    for part in PARTS:
        one, other = earlier.result(part), later.result(part)
        if one is None or other is None:
            if one is not other:
                found[part] = f"only the {'earlier' if one else 'new'} report has it"
            continue
        differing = [name for name in CONDITIONS[part] if getattr(one, name) != getattr(other, name)]
        if differing:
            found[part] = "it was measured under other conditions: " + ", ".join(differing)
        elif not (one.complete and other.complete):
            found[part] = f"the {'new' if one.complete else 'earlier'} one was not measured to its end"
    return found


def machine_words(machine: Mapping[str, Any]) -> str:
    """In a line."""
    memory = machine.get("memory_gib")
    return ", ".join(
        part
        for part in (
            str(machine.get("processor") or "unknown processor"),
            f"{machine['cores']} cores" if machine.get("cores") else "",
            f"{memory:g} GiB" if memory else "",
        )
        if part
    )
