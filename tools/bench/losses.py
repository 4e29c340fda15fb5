"""What losses over a large vocabulary need: memory and time of the plain formula, and in chunks."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer
from loss_memory import WAYS, Cost, Size, measure_apart
from machine import describe_machine, versions
from options import JsonFile, outputs
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rounds import BenchError
from showing import console, errors

MIB = 1 << 20


def main(
    objectives: Annotated[str, typer.Option(help="Names, separated by commas; without it, all.")] = "",
    positions: Annotated[int, typer.Option(min=2, max=1 << 20, help="Positions in a batch.")] = 4096,
    vocabulary: Annotated[int, typer.Option(min=16, max=1 << 21, help="Tokens.")] = 49_152,
    width: Annotated[int, typer.Option(min=1, max=1 << 15, help="Of hidden states.")] = 576,
    chunk: Annotated[int, typer.Option(min=1, max=1 << 20, help="Positions at a time.")] = 128,
    threads: Annotated[int, typer.Option(min=1, max=256)] = 2,
    json_path: JsonFile = None,
) -> None:
    """Takes each loss and its gradients both ways, each in a process of its own, from random hidden states in float32.

    The default size is a batch of SmolLM2-135M. The plain formula needs some GiB at that size.
    """
    size = Size(positions, vocabulary, width, chunk)
    try:
        names = _names(objectives)
        target, _ = outputs(json_path, None)
        costs = _measure(names, size, threads)
    except BenchError as error:
        errors.print(f"losses: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(1) from None
    report = make_report(costs, size, threads)
    console.print(table(report))
    if target is not None:
        target.write_text(json.dumps(report, indent=2) + "\n")
        console.print(f"written: {target}", markup=False, highlight=False, soft_wrap=True)


def make_report(costs: dict[str, dict[str, Cost]], size: Size, threads: int) -> dict[str, Any]:
    """What --json writes."""
    return {
        **asdict(size),
        "logits_bytes": 4 * size.positions * size.vocab_size,
        "threads": threads,
        "objectives": {name: {way: asdict(cost) for way, cost in both.items()} for name, both in costs.items()},
        "machine": describe_machine(),
        "versions": versions({}),
    }


def table(report: dict[str, Any]) -> Table:
    """A line for each objective."""
    title = f"{report['positions']:,} positions, {report['vocab_size']:,} tokens, width {report['width']}, float32"
    shown = Table("loss", "plain MiB", "chunked MiB", "ratio", "plain s", "chunked s", title=title)
    for name, both in report["objectives"].items():
        plain, chunked = both["plain"], both["chunked"]
        shown.add_row(
            name,
            f"{plain['peak_bytes'] / MIB:,.0f}",
            f"{chunked['peak_bytes'] / MIB:,.0f}",
            f"{plain['peak_bytes'] / max(1, chunked['peak_bytes']):.1f}",
            f"{plain['seconds']:.1f}",
            f"{chunked['seconds']:.1f}",
        )
    return shown


def _measure(names: list[str], size: Size, threads: int) -> dict[str, dict[str, Cost]]:
    costs: dict[str, dict[str, Cost]] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, auto_refresh=False) as progress:
        task = progress.add_task("", total=len(names) * len(WAYS))
        for name in names:
            for way in WAYS:
                progress.update(task, description=f"{name}, {way}", refresh=True)
                costs.setdefault(name, {})[way] = measure_apart(name, way, size, threads)
                progress.update(task, advance=1, refresh=True)
    return costs


def _names(value: str) -> list[str]:
    from paceline.trainer.learning.objectives import OBJECTIVES

    names = [part.strip() for part in value.split(",") if part.strip()] or list(OBJECTIVES)
    if len(set(names)) < len(names) or not set(names) <= set(OBJECTIVES):
        raise BenchError(f"--objectives is {value!r}; name some of {', '.join(OBJECTIVES)}, each once")
    return names


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, rich_markup_mode="markdown")
    app.command()(main)
    app()
