"""Figures in words, the same everywhere in a report."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime


def runs_words(runs: int) -> str:
    return "one repeat" if runs == 1 else f"{runs} repeats"


def spread_words(limits: Sequence[float] | None, style: str) -> str:
    """`1.20 – 1.31`; nothing where there is no spread."""
    if not limits or limits[0] == limits[1]:
        return ""
    return f"{limits[0]:{style}} – {limits[1]:{style}}"


def percent(share: float, *, signed: bool = False) -> str:
    return f"{100 * share:+.0f} %" if signed else f"{100 * share:.1f} %"


def duration_words(started: str, ended: str) -> str:
    """Between two moments in ISO 8601; nothing if one of them isn't."""
    try:
        seconds = (datetime.fromisoformat(ended) - datetime.fromisoformat(started)).total_seconds()
    except (ValueError, TypeError):
        return ""
    if seconds < 0:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def moment(text: str) -> str:
    """As one reads it; what is no moment stays as it is."""
    try:
        return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M:%S %Z").strip()
    except ValueError:
        return text
