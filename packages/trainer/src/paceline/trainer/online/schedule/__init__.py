"""When to refit, by name."""

from __future__ import annotations

from collections.abc import Callable

from paceline.trainer.online.schedule.base import Schedule
from paceline.trainer.online.schedule.cost_aware import CostAware
from paceline.trainer.online.schedule.interval import Interval

SCHEDULES: dict[str, Callable[[int], Schedule]] = {
    "cost_aware": lambda tokens: CostAware(first_tokens=tokens),
    "interval": lambda tokens: Interval(tokens=tokens),
}


def make_schedule(name: str, tokens: int) -> Schedule:
    """tokens: of lessons between two refits, or before the first where the rest follows from what it brought."""
    return SCHEDULES[name](tokens)
