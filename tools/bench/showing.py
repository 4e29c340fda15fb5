"""How the measuring tools show that they are at work, and what came of it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

console = Console()
errors = Console(stderr=True)

PROGRESS = "PACELINE_BENCH_PROGRESS"  # names a file descriptor

Told = Callable[[str, int], None]  # what is going on, and how many answers more there are


@contextmanager
def progress_of(num_answers: int) -> Iterator[tuple[Path, Told]]:
    """A folder for as long as it lasts, and a bar that moves with each answer and at no other time: drawing it ten
    times a second would be measured along. Whoever started this tool may have asked to be told too (`told_apart`)."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        tempfile.TemporaryDirectory(prefix="paceline-bench-") as folder,
        Progress(*columns, TimeRemainingColumn(), console=errors, auto_refresh=False) as progress,
        told_apart(num_answers) as tell_apart,
    ):
        task = progress.add_task("", total=num_answers)

        def tell(what: str, advance: int) -> None:
            progress.update(task, description=what, advance=advance, refresh=True)
            tell_apart(what, advance)

        yield Path(folder), tell


@contextmanager
def told_apart(num_answers: int) -> Iterator[Told]:
    """Writes progress as JSON lines `{"what", "done", "of"}` to the file descriptor that PACELINE_BENCH_PROGRESS
    names, if it is set. Nobody listening any more is no reason to stop measuring."""
    descriptor = os.environ.get(PROGRESS, "")
    if not descriptor.isdecimal():
        yield lambda _what, _advance: None
        return
    done = 0

    def tell(what: str, advance: int) -> None:
        nonlocal done
        done += advance
        line = json.dumps({"what": what, "done": done, "of": num_answers}) + "\n"
        with suppress(OSError):
            os.write(int(descriptor), line.encode())

    yield tell


def publish(
    report: dict[str, Any],
    tables: Iterator[Table],
    notes: Iterator[str],
    draw: Callable[[dict[str, Any], Path], None],
    target: Path | None,
    picture: Path | None,
) -> None:
    """Tables and notes to the terminal, the figures to `target`, and a picture of them to `picture`."""
    for table in tables:
        console.print(table)
    for note in notes:
        console.print(note, style="dim", markup=False, highlight=False)
    if target is not None:
        target.write_text(json.dumps(report, indent=2) + "\n")
        console.print(f"written: {target}", markup=False, highlight=False, soft_wrap=True)
    if picture is not None:
        draw(report, picture)
        console.print(f"written: {picture}", markup=False, highlight=False, soft_wrap=True)
