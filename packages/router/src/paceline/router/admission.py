"""How many requests are answered at once, and which."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from paceline.router.turnover import Turnover
from paceline.wire.errors import PacelineError, Reason

RETRY_AFTER_S = 1.0


class Admission:
    """Bounds the requests in progress and keeps their ids distinct.

    Attributes:
        draining: set it to let no more in.
        idle: set while no request is in progress.
        num_finished: requests that were admitted and are over, however they ended.
    """

    def __init__(self, max_requests: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.num_finished = 0
        self.draining = False
        self.idle = asyncio.Event()
        self.idle.set()
        self._max_requests = max_requests
        self._active: set[str] = set()
        self._clock = clock
        self._turnover = Turnover()

    @property
    def num_active(self) -> int:
        return len(self._active)

    @contextmanager
    def admitted(self, request_id: str) -> Iterator[None]:
        """Holds a place. Raises DRAINING, OVERLOADED or DUPLICATE_REQUEST."""
        if self.draining:
            raise PacelineError(
                Reason.DRAINING,
                "this router is shutting down; use another, or try again when it is back",
                retry_after_s=RETRY_AFTER_S,
            )
        if len(self._active) >= self._max_requests:
            raise PacelineError(
                Reason.OVERLOADED,
                f"{len(self._active)} requests are in progress, the limit; try again later",
                field="requests",
                value=len(self._active),
                limit=self._max_requests,
                retry_after_s=self._turnover.turned_away(),
            )
        if request_id in self._active:
            raise PacelineError(
                Reason.DUPLICATE_REQUEST,
                f"request_id {request_id!r} is in progress; choose another, or leave it unset",
                field="request_id",
                value=request_id,
            )
        self._active.add(request_id)
        self.idle.clear()
        came_s = self._clock()
        self._turnover.came()
        try:
            yield
        finally:
            self._active.discard(request_id)
            self._turnover.left(self._clock() - came_s)
            self.num_finished += 1
            if not self._active:
                self.idle.set()
