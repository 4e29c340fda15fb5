"""When to refit, by name."""

from __future__ import annotations

from collections.abc import Callable

from paceline.trainer.online.schedule.base import Schedule
from paceline.trainer.online.schedule.cost_aware import CostAware
from paceline.trainer.online.schedule.interval import Interval

SCHEDULES: dict[str, Callable[[], Schedule]] = {
    "cost_aware": CostAware,
    "interval": Interval,
}
