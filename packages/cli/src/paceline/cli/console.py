"""Where people read: what was asked for goes to `console`, what went wrong to `errors`. Both respect NO_COLOR."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

PIPED_WIDTH = 160  # a table that is read by grep must not be folded to a terminal's 80 columns


def width_for(stream: TextIO) -> int | None:
    """None leaves it to the terminal, or to COLUMNS."""
    return None if stream.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH


console = Console(width=width_for(sys.stdout))
errors = Console(stderr=True, width=width_for(sys.stderr))


def complain(who: str, what: str) -> None:
    """One line about what went wrong, whatever others said of it."""
    errors.print(f"{who}: {' '.join(what.split())}", style="red", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def waiting(words: str) -> Iterator[Callable[[str], None]]:
    """A spinner while something takes its time, if there is somebody to see it; the value changes its words."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task = progress.add_task(words, total=None)
        yield lambda words: progress.update(task, description=words)


def print_json(value: Any) -> None:
    """One line for programs. JSON has no infinity: what isn't finite becomes null."""
    print(json.dumps(_finite(value), allow_nan=False), flush=True)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
