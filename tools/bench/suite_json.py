"""A suite as one JSON object for programs, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rounds import BenchError
from section_overview import not_run
from suite import PartOutcome, Record, Suite, command_of, ended_of, in_order, machine_id, started_of
from suite_against import Comparison
from suite_figures import as_json, figures_of
from suite_results import PARTS, read_result

FORMAT = "paceline-bench-1"


def suite_json(suite: Suite, comparison: Comparison | None = None) -> dict[str, Any]:
    """What --json writes: all that the report shows. `figures` is the flat list; `parts` has each tool's own file."""
    machines = suite.machines
    return {
        "format": FORMAT,
        "command": suite.command,
        "started": suite.started,
        "ended": suite.ended,
        "machine": {**machines[0], "id": machine_id(machines[0])} if len(machines) == 1 else None,
        "machines": machines,
        "versions": suite.versions,
        "failed": suite.failed,
        "figures": as_json(figures_of(suite)),
        "parts": {part.name: _part(part) for part in suite.parts},
        "not_run": [f"{what} {why}" for what, why in not_run(suite)],
        "against": comparison_json(comparison) if comparison else None,
    }


def _part(part: PartOutcome) -> dict[str, Any]:
    return {
        "state": part.state,
        "why": part.why,
        "command": command_of(part),
        "started": started_of(part),
        "ended": ended_of(part),
        "exit_code": part.record.exit_code if part.record else None,
        "processors_used_by_others": part.record.others if part.record else None,
        "result": part.content if part.result else None,
    }


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """`obstacles` by part ("" for all of it) say what can't be compared; `change` is relative to the earlier value."""
    return {
        "earlier": {"started": comparison.earlier.started, "command": comparison.earlier.command},
        "obstacles": dict(comparison.obstacles),
        "differences": [
            {
                "part": one.later.part,
                "name": one.later.name,
                "of": one.later.of,
                "earlier": _value(one.earlier),
                "later": _value(one.later),
                "change": None if one.change is None else round(one.change, 4),
                "verdict": one.verdict,
            }
            for one in comparison.differences
        ],
        "missing": [list(key) for key in comparison.missing],
    }


def _value(figure: Any) -> dict[str, Any]:
    return {"value": figure.value, "low": figure.low, "high": figure.high, "runs": figure.runs}


def read_suite(content: Mapping[str, Any]) -> Suite:
    """Of what `suite_json` made. BenchError says what is wrong with it."""
    if content.get("format") != FORMAT:
        raise BenchError(f"it is not what this command's --json writes (its format is not {FORMAT!r})")
    parts = content.get("parts")
    if not isinstance(parts, dict):
        raise BenchError("its 'parts' is no object")
    known = [
        PartOutcome(name, "done", "", _record(name, entry), read_result(name, entry["result"]), entry["result"])
        for name, entry in parts.items()
        if name in PARTS and isinstance(entry, dict) and entry.get("result") is not None
    ]
    return Suite(in_order(known), str(content.get("command", ""))[:10_000])


def _record(name: str, entry: Mapping[str, Any]) -> Record:
    return Record(part=name, started=str(entry.get("started", ""))[:100], ended=str(entry.get("ended", ""))[:100])
