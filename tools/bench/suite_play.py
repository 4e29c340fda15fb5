"""Part after part of a suite: what was measured before is kept, what fails doesn't stop the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from showing import errors
from suite import Asked, PartOutcome, Suite, ended_of
from suite_folder import Folder, kept
from suite_plan import LEFT_OUT_BY_QUICK, SuitePlan, arguments_of
from suite_results import PARTS
from suite_run import Interrupted, Told, command_line, run_part

TENTHS = 10  # lines of a part where there is no terminal for a bar


def play(plan: SuitePlan, folder: Folder, command: str) -> tuple[Suite, bool]:
    """Runs what is to be run; True if somebody stopped it.

    Raises:
        BenchError: before anything is run, if the folder has figures of other options.
    """
    before = {
        part: kept(folder, part, command_line(part, arguments_of(part, plan), folder))
        for part in plan.parts
        if not plan.missing(part)
    }
    asked = Asked(command=command, notes=LEFT_OUT_BY_QUICK if plan.quick else [])
    folder.keep_asked(asked)
    _log(f"figures and logs are kept in {folder.path}; --work {folder.path} goes on there")
    parts: list[PartOutcome] = []
    interrupted = False
    with _bars() as bar:
        for part in PARTS:
            outcome = before.get(part) or _not_to_run(part, plan, interrupted)
            if outcome is None:
                outcome, interrupted = _run(part, plan, folder, bar(part))
            elif outcome.state == "done":
                _log(f"{part}: measured before, {ended_of(outcome)}")
            parts.append(outcome)
            _log(f"{part}: {': '.join(filter(None, (outcome.state, outcome.why)))}")
    return Suite(parts, asked.command, asked.notes), interrupted


def _not_to_run(part: str, plan: SuitePlan, interrupted: bool) -> PartOutcome | None:
    if part not in plan.parts:
        return PartOutcome(part, "not run", "--only left it out")
    if why := plan.missing(part):
        return PartOutcome(part, "not run", why)
    return PartOutcome(part, "not run", "the run was interrupted before it began") if interrupted else None


def _run(part: str, plan: SuitePlan, folder: Folder, tell: Told) -> tuple[PartOutcome, bool]:
    _log(f"{part}: begins; its log is {folder.log(part)}")
    try:
        return run_part(part, arguments_of(part, plan), folder, tell), False
    except Interrupted:
        return folder.outcome(part, "the run was interrupted"), True


@contextmanager
def _bars() -> Iterator[Callable[[str], Told]]:
    """A bar for each part, drawn when something happens and at no other time; lines where there is no terminal."""
    columns = (TextColumn("{task.fields[part]:<10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.description}"), console=errors, auto_refresh=False) as progress:

        def bar(part: str) -> Told:
            task = progress.add_task("starting", total=None, part=part)
            tenths = 0

            def tell(what: str, done: int, of: int) -> None:
                nonlocal tenths
                progress.update(task, description=what, completed=done, total=of, refresh=True)
                reached = TENTHS * done // max(1, of)
                if reached > tenths and not errors.is_terminal:
                    tenths = reached
                    _log(f"{part}: {done} of {of}, {what}")

            return tell

        yield bar


def _log(line: str) -> None:
    errors.print(line, markup=False, highlight=False, soft_wrap=True)
