"""Writes a router's history while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from paceline.router.backend import Backend
from paceline.router.history import Estimate
from paceline.router.standing import arms_of, members_of
from paceline.router.trial_book import Verdict

LOOK_S = 1.0
POINT_S = 5.0


class Chronicle:
    """Looks at members every second and at arms every five, from `start` to `close`.

    Args:
        backend: what is looked at; its history is written.
        wall_clock: seconds since 1970.
        look_s, point_s: between looks at members, and at arms.
    """

    def __init__(
        self, backend: Backend, wall_clock: Callable[[], float], look_s: float = LOOK_S, point_s: float = POINT_S
    ) -> None:
        self._backend = backend
        self._wall_clock = wall_clock
        self._look_s = look_s
        self._point_s = point_s
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._backend.trials.decided = self._decided
        self._task = asyncio.create_task(self._write(), name="chronicle")

    def close(self) -> None:
        """Again is harmless."""
        if self._task is not None:
            self._task.cancel()

    async def _write(self) -> None:
        clock, history = self._backend.clock, self._backend.history
        due_s = clock()
        while True:
            history.saw(self._wall_clock(), members_of(self._backend), self._backend.learner.name)
            if clock() >= due_s:
                due_s = clock() + self._point_s
                found = arms_of(self._backend)
                estimates = {(model, report.arm): Estimate(report.pulls, report.mean) for model, report in found}
                history.estimated(self._wall_clock(), estimates)
            await asyncio.sleep(self._look_s)

    def _decided(self, drafter_id: str, verdict: Verdict) -> None:
        """Heard from the book itself: a drafter that is told may leave before the next look."""
        self._backend.history.decided(self._wall_clock(), drafter_id, verdict.outcome)
