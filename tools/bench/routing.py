"""How well policies choose drafters: regret on made-up traffic, or on what was recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from machine import describe_machine, versions
from options import INTERRUPTED, JsonFile, PlotFile, in_users_folder, one_of, outputs
from origin import begin
from rounds import BenchError
from routing_cross_check import players
from routing_recorded import read_recorded
from routing_report import draw, notes, tables
from routing_run import LEARNING, Plan, default_policy, run, run_recorded
from routing_scenes import SCENES
from showing import errors, progress_of, publish

from paceline.router.version import VERSION

NAMES = tuple(scene.name for scene in SCENES)
FIRST_SEED = 1000  # policies were tuned on seeds below


def main(
    scenes: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(NAMES)}; all without it.")] = None,
    segments: Annotated[int, typer.Option(min=50, max=1_000_000, help="Of each episode.")] = 2000,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Episodes of each scene.")] = 5,
    first_seed: Annotated[int, typer.Option(min=0, help="The others follow it.")] = FIRST_SEED,
    recorded: Annotated[
        Path | None,
        typer.Option(help="JSON lines of recorded outcomes instead of scenes; routing_recorded.py says what they are."),
    ] = None,
    cross_check: Annotated[bool, typer.Option(help="Vowpal Wabbit too, if it is installed.")] = False,
    json_path: JsonFile = None,
    plot_path: PlotFile = None,
) -> None:
    """Plays every policy of the router on traffic whose best arm is known, and says what share of it was missed.

    Regret is the share of speed that was missed: 1 - (expected time of the best arm for each segment ÷ that of what was
    chosen).
    """
    origin = begin("routing")
    try:
        target, picture = outputs(json_path, plot_path)
        wanted = [one_of("--scenes", name, NAMES) for name in scenes or NAMES]
        plan = Plan(wanted, segments, range(first_seed, first_seed + seeds), players() if cross_check else {})
        num_runs = seeds * (len(LEARNING) + len(plan.others)) * (1 if recorded else len(wanted))
        with progress_of(num_runs) as (_folder, tell):
            table = read_recorded(in_users_folder(recorded)) if recorded else None
            found = run(plan, tell) if table is None else run_recorded(table, plan, tell)
    except BenchError as error:
        errors.print(f"routing: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    report = {**make_report(plan, found), **origin.facts()}
    publish(report, tables(report), notes(report), draw, target, picture)


def make_report(plan: Plan, found: dict[str, Any]) -> dict[str, Any]:
    """What --json writes."""
    return {
        "default_policy": default_policy(),
        **found,
        "segments": plan.segments,
        "seeds": list(plan.seeds),
        "machine": describe_machine(),
        "versions": versions({"paceline-router": VERSION}),
    }


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, rich_markup_mode="markdown")
    app.command()(main)
    app()
