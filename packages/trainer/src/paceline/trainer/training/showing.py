"""A bar on standard error while a run goes on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def step_bar(num_steps: int, shown: bool = True) -> Iterator[Callable[[int, float], None]]:
    """Gives a function to tell it the steps taken and the loss. Nothing is drawn where nobody would see it move."""
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(
        *columns,
        TextColumn("loss {task.fields[loss]:.3f}"),
        console=console,
        disable=not (shown and sys.stderr.isatty()),
    ) as progress:
        task = progress.add_task("training", total=num_steps, loss=float("nan"))
        yield lambda step, loss: progress.update(task, completed=step, loss=loss)
