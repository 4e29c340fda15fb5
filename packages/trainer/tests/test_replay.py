"""The buffer: many callers, few syncs, and an answer only for what is on disk."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from paceline.trainer import replay as replay_module
from paceline.trainer import segment_log
from paceline.trainer.replay import MIB, ReplayBuffer, replay_bounds
from paceline.trainer.segment import Record
from paceline.wire.errors import PacelineError, Reason


def record(number: int) -> Record:
    return Record(number.to_bytes(16, "big"), 10, bytes(100))


@asynccontextmanager
async def opened(
    folder: Path, clock: Callable[[], float] = lambda: 0.0, ttl_s: float = 0.0
) -> AsyncIterator[ReplayBuffer]:
    buffer = ReplayBuffer(folder, replay_bounds(8 * MIB, ttl_s), clock)
    await buffer.open()
    try:
        yield buffer
    finally:
        await buffer.close()


@asynccontextmanager
async def slow_disk(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[asyncio.Event, threading.Event]]:
    """Makes fsync wait: yields the event that it has begun, and the one that lets it go on."""
    loop, begun, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    real_fsync = os.fsync

    def fsync(file: int) -> None:
        loop.call_soon_threadsafe(begun.set)
        assert go_on.wait(30)
        real_fsync(file)

    monkeypatch.setattr(segment_log.os, "fsync", fsync)
    try:
        yield begun, go_on
    finally:
        go_on.set()


async def test_no_answer_before_the_disk_has_it_and_callers_share_a_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as buffer, slow_disk(monkeypatch) as (begun, go_on):
        first = asyncio.create_task(buffer.add([record(0)]))
        await begun.wait()
        others = [asyncio.create_task(buffer.add([record(n), record(n + 1)])) for n in range(1, 51)]
        await asyncio.sleep(0.05)
        assert not any(task.done() for task in (first, *others))
        go_on.set()
        counts = await asyncio.gather(first, *others)
        assert counts == [1, 2] + [1] * 49, "a lesson that two callers send is stored once"
        assert buffer.num_syncs == 2
        assert len(list(buffer.lessons())) == 52


async def test_a_caller_that_leaves_takes_nobody_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path) as buffer, slow_disk(monkeypatch) as (begun, go_on):
        leaving = asyncio.create_task(buffer.add([record(1)]))
        await begun.wait()
        staying = asyncio.create_task(buffer.add([record(2)]))
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        go_on.set()
        assert await staying == 1


async def test_a_full_disk_is_said_to_every_caller_and_later_ones_are_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as buffer:
        await buffer.add([record(1)])
        with monkeypatch.context() as patched:

            def full(_file: int) -> None:
                raise OSError(errno.ENOSPC, "No space left on device")

            patched.setattr(segment_log.os, "fsync", full)
            refused = await asyncio.gather(*(buffer.add([record(n)]) for n in range(2, 6)), return_exceptions=True)
        assert [getattr(error, "reason", None) for error in refused] == [Reason.STORAGE_FULL] * 4
        assert all(isinstance(error, PacelineError) and error.retry_after_s for error in refused)
        assert await buffer.add([record(n) for n in range(1, 6)]) == 4
    async with opened(tmp_path) as buffer:
        assert buffer.view.num_records == 5


async def test_what_waits_for_the_disk_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_module, "MAX_WAITING_BYTES", 500)
    async with opened(tmp_path) as buffer, slow_disk(monkeypatch) as (begun, go_on):
        first = asyncio.create_task(buffer.add([record(0)]))
        await begun.wait()
        waiting = [asyncio.create_task(buffer.add([record(n)])) for n in range(1, 4)]
        await asyncio.sleep(0)
        with pytest.raises(PacelineError) as refused:
            await buffer.add([record(9)])
        assert refused.value.reason is Reason.OVERLOADED
        assert refused.value.retry_after_s
        go_on.set()
        assert await asyncio.gather(first, *waiting) == [1] * 4
        assert await buffer.add([record(n) for n in range(10, 20)]) == 10, "one that is alone is never too large"


async def test_closing_stores_what_waits_and_takes_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as buffer, slow_disk(monkeypatch) as (begun, go_on):
        first = asyncio.create_task(buffer.add([record(1)]))
        await begun.wait()
        second = asyncio.create_task(buffer.add([record(2)]))
        await asyncio.sleep(0)
        closing = asyncio.create_task(buffer.close())
        await asyncio.sleep(0)
        with pytest.raises(PacelineError) as refused:
            await buffer.add([record(3)])
        assert refused.value.reason is Reason.DRAINING
        go_on.set()
        await closing
        assert (await first, await second) == (1, 1)


async def test_lessons_leave_in_time_though_nobody_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_module, "EXPIRE_EVERY_S", 0.01)
    now = 0.0
    async with opened(tmp_path, lambda: now, ttl_s=100.0) as buffer:
        await buffer.add([record(1)])
        now = 101.0
        async with asyncio.timeout(10):
            while buffer.view.num_records:
                await asyncio.sleep(0.01)
        assert buffer.view.num_evicted == 1
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".segment")]


async def test_lessons_can_be_read_from_either_end(tmp_path: Path) -> None:
    async with opened(tmp_path) as buffer:
        await buffer.add([record(n) for n in range(5)])
        assert list(buffer.lessons()) == [record(n) for n in range(5)]
        assert list(buffer.lessons(newest_first=True)) == [record(n) for n in reversed(range(5))]
