"""What killing came to, as figures and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from killing_plans import IN_FLIGHT, Kind
from killing_round import Played
from rich.box import SIMPLE
from rich.table import Table


def figures(rounds: Sequence[Played]) -> dict[str, Any]:
    """By kind of victim, and of all rounds."""
    by_kind = {kind.value: _of([one for one in rounds if one.plan.kind is kind]) for kind in Kind}
    return {"victims": {name: row for name, row in by_kind.items() if row["rounds"]}, "all": _of(rounds)}


def _of(rounds: Sequence[Played]) -> dict[str, Any]:
    pauses, returns = [one.pause_s for one in rounds], [one.back_s for one in rounds]
    return {
        "rounds": len(rounds),
        "requests": len(rounds) * IN_FLIGHT,
        "running_when_killed": sum(one.running for one in rounds),
        "connections_broken": sum(one.broken for one in rounds),
        "failovers": sum(one.failovers for one in rounds),
        "faults": sum(len(one.faults) for one in rounds),
        "pause_s": {"median": median(pauses or [0.0]), "max": max(pauses, default=0.0)},
        "back_s": {"median": median(returns or [0.0]), "max": max(returns, default=0.0)},
    }


def every_round(rounds: Sequence[Played]) -> list[dict[str, Any]]:
    return [
        {
            "number": one.plan.number,
            "victim": one.plan.victim,
            "at_once": one.plan.at_once,
            "forgets": one.plan.forgets,
            "running": one.running,
            "broken": one.broken,
            "failovers": one.failovers,
            "pause_s": one.pause_s,
            "back_s": one.back_s,
            "faults": one.faults,
        }
        for one in rounds
    ]


def table_of(report: dict[str, Any]) -> Table:
    table = Table(title="killed in mid-stream", caption="seconds: median, longest", box=SIMPLE, pad_edge=False)
    table.add_column("victim", no_wrap=True)
    for heading in ("rounds", "begun", "broken", "moved", "faults", "pause", "back"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, row in [*report["victims"].items(), ("all", report["all"])]:
        counts = ("rounds", "running_when_killed", "connections_broken", "failovers", "faults")
        pause_s, back_s = row["pause_s"], row["back_s"]
        times = f"{pause_s['median']:.2f}, {pause_s['max']:.2f}", f"{back_s['median']:.1f}, {back_s['max']:.1f}"
        table.add_row(name, *(str(row[count]) for count in counts), *times)
    return table
