"""A progress bar for work that takes minutes to hours."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class WorkBar:
    """Counts items, and tells tokens per second beside them; shown on standard error if that is a terminal.

    Args:
        title: what is being done.
        total: items in all.
        done: items that an earlier run did.
    """

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]}"),
        )
        self._progress = Progress(
            *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=not console.is_terminal
        )
        self._task = self._progress.add_task(title, total=total, completed=done, pace="")
        self._begun_s = time.monotonic()
        self.num_tokens = 0

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / max(1e-9, time.monotonic() - self._begun_s)

    def advance(self, items: int, num_tokens: int) -> None:
        self.num_tokens += num_tokens
        self._progress.update(self._task, advance=items, pace=f"{self.tokens_per_s:.0f} tokens/s")

    def __enter__(self) -> WorkBar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()
