from __future__ import annotations

import errno
import os
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.trainer import segment_log
from paceline.trainer.replay import FolderInUse, ReplayBuffer, StoredLesson
from paceline.trainer.segment_log import SegmentLog

BIG = 1 << 30


def lesson(number: int, size: int = 100) -> StoredLesson:
    return StoredLesson(number.to_bytes(16, "big"), size, bytes([number % 251]) * size)


def stored(buffer: ReplayBuffer) -> list[StoredLesson]:
    return list(buffer.lessons())


def test_lessons_come_back_in_order_after_reopening(tmp_path: Path) -> None:
    buffer = ReplayBuffer(tmp_path, BIG)
    lessons = [lesson(number) for number in range(20)]
    assert buffer.add(lessons[:7], 0.0) == 7
    assert buffer.add(lessons[7:], 0.0) == 13
    buffer.close()
    again = ReplayBuffer(tmp_path, BIG)
    assert stored(again) == lessons
    assert again.statistics().lessons == 20
    assert again.statistics().tokens == 2000


def test_a_lesson_is_stored_once_even_across_a_restart(tmp_path: Path) -> None:
    buffer = ReplayBuffer(tmp_path, BIG)
    assert buffer.add([lesson(1), lesson(1), lesson(2)], 0.0) == 2
    assert buffer.add([lesson(2)], 0.0) == 0
    buffer.close()
    again = ReplayBuffer(tmp_path, BIG)
    assert again.add([lesson(1), lesson(3)], 0.0) == 1
    assert stored(again) == [lesson(1), lesson(2), lesson(3)]


def test_the_oldest_leave_when_the_bound_is_reached(tmp_path: Path) -> None:
    bound = 20_000
    buffer = ReplayBuffer(tmp_path, bound)
    for number in range(500):
        buffer.add([lesson(number)], 0.0)
    statistics = buffer.statistics()
    assert statistics.num_bytes <= bound
    assert statistics.num_bytes > bound // 2
    kept = [int.from_bytes(item.lesson_id, "big") for item in buffer.lessons()]
    assert kept == list(range(kept[0], 500))
    assert statistics.evicted == kept[0]
    assert statistics.lessons == len(kept)
    assert buffer.add([lesson(0)], 0.0) == 1, "what has left may come again"


def test_lessons_leave_when_their_time_is_up(tmp_path: Path) -> None:
    buffer = ReplayBuffer(tmp_path, 16_000, ttl_s=100.0)
    for number in range(20):
        buffer.add([lesson(number)], now_s=float(number))
    before = buffer.statistics().lessons
    buffer.add([lesson(99)], now_s=115.0)
    kept = [int.from_bytes(item.lesson_id, "big") for item in buffer.lessons()]
    assert len(kept) < before
    assert kept[-1] == 99
    assert buffer.statistics().lessons == len(kept)


def test_only_one_process_may_open_it(tmp_path: Path) -> None:
    buffer = ReplayBuffer(tmp_path, BIG)
    with pytest.raises(FolderInUse):
        ReplayBuffer(tmp_path, BIG)
    buffer.close()
    ReplayBuffer(tmp_path, BIG).close()


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    buffer = ReplayBuffer(tmp_path / "replay", BIG)
    buffer.add([lesson(1)], 0.0)
    modes = {path.stat().st_mode & 0o077 for path in (tmp_path / "replay", *(tmp_path / "replay").iterdir())}
    assert modes == {0}


def test_threads_lose_nothing(tmp_path: Path) -> None:
    buffer = ReplayBuffer(tmp_path, BIG)
    threads = [
        threading.Thread(target=lambda start=start: [buffer.add([lesson(start + i)], 0.0) for i in range(25)])
        for start in (0, 100, 200, 300)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({item.lesson_id for item in buffer.lessons()}) == 100


def test_a_full_disk_refuses_and_leaves_the_buffer_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = ReplayBuffer(tmp_path, BIG)
    buffer.add([lesson(1)], 0.0)
    real_write = os.write

    def half_then_full(file: int, data: bytes) -> int:
        if len(data) > 60:
            return real_write(file, data[:60])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(segment_log.os, "write", half_then_full)
    with pytest.raises(OSError, match="No space"):
        buffer.add([lesson(2)], 0.0)
    monkeypatch.undo()
    assert stored(buffer) == [lesson(1)]
    buffer.add([lesson(2)], 0.0)
    buffer.close()
    assert stored(ReplayBuffer(tmp_path, BIG)) == [lesson(1), lesson(2)]


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=8),
    cut=st.integers(0, 400),
    flip=st.one_of(st.none(), st.integers(0, 399)),
)
def test_after_any_cut_or_flipped_bit_only_whole_true_records_remain(
    sizes: list[int], cut: int, flip: int | None
) -> None:
    records = [bytes([index]) * size for index, size in enumerate(sizes)]
    with tempfile.TemporaryDirectory() as folder:
        log = SegmentLog(Path(folder), BIG, BIG)
        log.append(records, 0.0)
        log.close()
        path = log.segments[0].path
        data = bytearray(path.read_bytes())
        cut = min(cut, len(data))
        del data[cut:]
        damaged_at = len(data)
        if flip is not None and flip < len(data):
            data[flip] ^= 0x40
            damaged_at = flip
        path.write_bytes(data)
        again = SegmentLog(Path(folder), BIG, BIG)
        kept = list(again.records(again.segments[0]))
        whole = 0
        end = 0
        for record in records:
            end += 8 + len(record)
            whole += end <= damaged_at
        assert kept == records[: len(kept)], "nothing is invented"
        assert len(kept) >= whole, "nothing before the damage is lost"
        again.append([b"new"], 0.0)
        again.close()
        final = SegmentLog(Path(folder), BIG, BIG)
        assert list(final.records(final.segments[0])) == [*kept, b"new"]
