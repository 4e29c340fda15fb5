"""The replay buffer: takes lessons from many callers at once, and puts them on disk with as few syncs as possible.

One task owns the log. While it waits for the disk, what arrives gathers; then all of that shares the next sync.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from paceline.trainer.durable import storage_error
from paceline.trainer.segment import Record
from paceline.trainer.segment_log import Bounds, SegmentLog, View, read_view
from paceline.wire.errors import PacelineError, Reason

log = structlog.get_logger()

MIB = 1024 * 1024
MAX_WAITING_BYTES = 64 * MIB
MAX_SEGMENT_BYTES = 16 * MIB
MIN_SEGMENT_BYTES = 64 * 1024
MEAN_RECORD_BYTES = 1024  # real lessons are larger; many that are smaller fill the buffer by their number
EXPIRE_EVERY_S = 60.0


def replay_bounds(max_bytes: int, max_age_s: float) -> Bounds:
    """Bounds of a replay buffer of `max_bytes` on disk."""
    return Bounds(
        max_bytes=max_bytes,
        max_records=max_bytes // MEAN_RECORD_BYTES,
        segment_bytes=max(MIN_SEGMENT_BYTES, min(MAX_SEGMENT_BYTES, max_bytes // 16)),
        max_age_s=max_age_s,
    )


@dataclass(slots=True)
class _Waiting:
    records: Sequence[Record]
    stored: asyncio.Future[int]


class ReplayBuffer:
    """Use: `await buffer.open()`, `await buffer.add(records)` from any number of tasks, `await buffer.close()`.

    Args:
        folder: of this buffer alone.
        bounds: what it may hold.
        clock: Unix time in seconds.
    """

    def __init__(self, folder: Path, bounds: Bounds, clock: Callable[[], float]) -> None:
        self.max_bytes = bounds.max_bytes
        self.num_syncs = 0
        self._folder = folder
        self._bounds = bounds
        self._clock = clock
        self._waiting: list[_Waiting] = []
        self._waiting_bytes = 0
        self._arrived = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self._view: View | None = None

    async def open(self) -> None:
        """Reads what is on disk. Raises OSError, or NewerFormat."""
        segments = await asyncio.to_thread(SegmentLog, self._folder, self._bounds, self._clock())
        self._view = segments.view()
        self._task = asyncio.create_task(self._run(segments), name="replay")

    @property
    def view(self) -> View:
        """What the buffer holds; after `open`."""
        assert self._view is not None, "open the buffer first"
        return self._view

    async def add(self, records: Sequence[Record]) -> int:
        """Stores those whose id isn't there yet, and returns how many; they are on disk then.

        Raises:
            PacelineError: OVERLOADED if too much waits for the disk, STORAGE_FULL, or DRAINING after `close`.
        """
        if self._closing:
            raise PacelineError(
                Reason.DRAINING, "this trainer is stopping; send the lessons to another, or again later"
            )
        size = sum(record.frame_bytes for record in records)
        if self._waiting and self._waiting_bytes + size > MAX_WAITING_BYTES:
            raise PacelineError(
                Reason.OVERLOADED,
                f"{self._waiting_bytes} bytes of lessons wait for the disk; with {size} more it would be above "
                f"{MAX_WAITING_BYTES}; try again",
                field="lessons",
                value=size,
                limit=MAX_WAITING_BYTES - self._waiting_bytes,
                retry_after_s=1.0,
            )
        waiting = _Waiting(records, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._waiting_bytes += size
        self._arrived.set()
        return await waiting.stored

    def lessons(self, newest_first: bool = False) -> Iterator[Record]:
        """Every lesson, for training; reads files, so use it in a thread. What leaves meanwhile may be missing."""
        return read_view(self.view, newest_first)

    async def close(self) -> None:
        """Stores what waits, and ends."""
        self._closing = True
        self._arrived.set()
        if self._task is not None:
            await self._task
            self._task = None

    async def _run(self, segments: SegmentLog) -> None:
        while self._waiting or not self._closing:
            if self._waiting:
                await self._store(segments)
                continue
            self._arrived.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EXPIRE_EVERY_S):
                    await self._arrived.wait()
            if not self._waiting:
                await self._expire(segments)
        segments.close()

    async def _expire(self, segments: SegmentLog) -> None:
        try:
            await asyncio.to_thread(segments.expire, self._clock())
        except OSError as error:
            log.error("lessons whose time is up can't be removed", why=error.strerror)
        self._view = segments.view()

    async def _store(self, segments: SegmentLog) -> None:
        group, self._waiting, self._waiting_bytes = self._waiting, [], 0
        records = [record for waiting in group for record in waiting.records]
        self.num_syncs += 1
        try:
            new = iter(await asyncio.to_thread(segments.append, records, self._clock()))
        except Exception as error:
            log.exception("lessons can't be stored", lessons=len(records))
            for waiting in group:
                _fail(waiting.stored, error)
        else:
            for waiting in group:
                count = sum(itertools.islice(new, len(waiting.records)))
                if not waiting.stored.done():  # its caller may have left
                    waiting.stored.set_result(count)
        finally:
            self._view = segments.view()


def _fail(stored: asyncio.Future[int], error: Exception) -> None:
    if not stored.done():
        stored.set_exception(storage_error(error) if isinstance(error, OSError) else RuntimeError(str(error)))
