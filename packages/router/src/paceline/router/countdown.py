"""How much of a request's time is left."""

from __future__ import annotations

from collections.abc import Callable

TimeLeft = Callable[[], float | None]
"""Seconds until a request's deadline, negative after it; None if it has none."""


def countdown(seconds: float | None, clock: Callable[[], float]) -> TimeLeft:
    """From now on so many seconds; None for no deadline."""
    if seconds is None:
        return lambda: None
    ends_s = clock() + seconds
    return lambda: ends_s - clock()


def sooner(first: TimeLeft, second: TimeLeft) -> TimeLeft:
    """Until the earlier of two deadlines."""

    def left() -> float | None:
        known = [one for one in (first(), second()) if one is not None]
        return min(known, default=None)

    return left
