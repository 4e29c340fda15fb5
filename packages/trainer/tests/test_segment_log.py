"""The log of records: what is on disk after cuts, flipped bits, full disks and restarts."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.trainer import durable, segment_log
from paceline.trainer.durable import FolderInUse, lock_folder
from paceline.trainer.segment import FRAME_BYTES, HEADER_BYTES, NewerFormat, Record
from paceline.trainer.segment_log import Bounds, SegmentLog, read_view

ROOMY = Bounds(max_bytes=1 << 30, max_records=1 << 20, segment_bytes=1 << 20)
SMALL = Bounds(max_bytes=16_000, max_records=1 << 20, segment_bytes=1000)


def record(number: int, size: int = 100) -> Record:
    return Record(number.to_bytes(16, "big"), size, bytes([number % 251]) * size)


def numbers(log: SegmentLog, newest_first: bool = False) -> list[int]:
    return [int.from_bytes(item.lesson_id, "big") for item in read_view(log.view(), newest_first)]


def reopened(folder: Path, bounds: Bounds = ROOMY, now: float = 0.0) -> SegmentLog:
    return SegmentLog(folder, bounds, now)


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.segment"))


def on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in segments(folder))


def test_records_come_back_in_either_order_after_reopening(tmp_path: Path) -> None:
    log = reopened(tmp_path, SMALL)
    assert log.append([record(n) for n in range(7)], 0.0) == [True] * 7
    assert log.append([record(n) for n in range(7, 20)], 0.0) == [True] * 13
    log.close()
    assert len(segments(tmp_path)) > 1
    again = reopened(tmp_path, SMALL)
    assert list(read_view(again.view())) == [record(n) for n in range(20)]
    assert numbers(again, newest_first=True) == list(reversed(range(20)))
    view = again.view()
    assert (view.num_records, view.num_tokens, view.num_bytes) == (20, 2000, on_disk(tmp_path))


def test_an_id_is_stored_once_even_across_a_restart(tmp_path: Path) -> None:
    log = reopened(tmp_path)
    assert log.append([record(1), record(1), record(2)], 0.0) == [True, False, True]
    assert log.append([record(2)], 0.0) == [False]
    log.close()
    again = reopened(tmp_path)
    assert again.append([record(1), record(3)], 0.0) == [False, True]
    assert numbers(again) == [1, 2, 3]


def test_the_oldest_leave_before_the_bound_is_passed(tmp_path: Path) -> None:
    log = reopened(tmp_path, SMALL)
    for number in range(500):
        log.append([record(number)], 0.0)
        assert on_disk(tmp_path) <= SMALL.max_bytes
    kept = numbers(log)
    assert kept == list(range(kept[0], 500))
    assert log.view().num_bytes > SMALL.max_bytes // 2
    assert log.view().num_evicted == kept[0]
    assert log.append([record(0)], 0.0) == [True], "what has left may come again"
    num_evicted, kept = log.view().num_evicted, numbers(log)
    log.close()
    again = reopened(tmp_path, SMALL)
    assert again.view().num_evicted == num_evicted, "the count survives a restart"
    assert numbers(again) == kept


def test_a_batch_larger_than_the_log_leaves_its_newest(tmp_path: Path) -> None:
    log = reopened(tmp_path, SMALL)
    log.append([record(n) for n in range(300)], 0.0)
    assert on_disk(tmp_path) <= SMALL.max_bytes
    kept = numbers(log)
    assert kept == list(range(kept[0], 300))
    assert log.view().num_evicted == kept[0]


def test_many_tiny_records_are_bounded_by_their_number(tmp_path: Path) -> None:
    log = reopened(tmp_path, Bounds(max_bytes=1 << 20, max_records=50, segment_bytes=500))
    for number in range(200):
        log.append([record(number, size=1)], 0.0)
    assert log.view().num_records <= 50
    assert numbers(log)[-1] == 199


def test_smaller_bounds_hold_from_the_next_start(tmp_path: Path) -> None:
    log = reopened(tmp_path, SMALL)
    log.append([record(n) for n in range(90)], 0.0)
    log.close()
    again = reopened(tmp_path, Bounds(max_bytes=4000, max_records=1000, segment_bytes=1000))
    assert on_disk(tmp_path) <= 4000
    assert numbers(again)[-1] == 89


def test_a_crash_while_the_oldest_leave_neither_revives_nor_counts_them_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = reopened(tmp_path, SMALL)
    log.append([record(n) for n in range(20)], 0.0)
    oldest = segments(tmp_path)[0]
    monkeypatch.setattr(Path, "unlink", lambda *_arguments, **_options: None)
    with pytest.raises(ValueError, match="can't be stored"):
        log.append([record(99, SMALL.max_bytes)], 0.0)
    log.append([record(n) for n in range(20, 130)], 0.0)
    monkeypatch.undo()
    assert oldest.exists()
    log.close()
    kept = numbers(log)
    again = reopened(tmp_path, SMALL)
    assert numbers(again) == kept
    assert again.view().num_evicted == kept[0]
    assert not oldest.exists()


AGED = Bounds(max_bytes=1 << 20, max_records=1 << 20, segment_bytes=1 << 20, max_age_s=160.0)


def test_no_record_stays_beyond_its_age_and_each_stays_for_most_of_it(tmp_path: Path) -> None:
    log = reopened(tmp_path, AGED)
    for number in range(400):
        log.append([record(number)], float(number))
        ages = [number - kept for kept in numbers(log)]
        assert max(ages) < 160
        assert ages[0] >= min(number, 150)
    log.expire(2000.0)
    assert numbers(log) == []
    assert segments(tmp_path) == []


def test_age_counts_while_the_trainer_is_off_and_when_the_clock_was_ahead(tmp_path: Path) -> None:
    log = reopened(tmp_path, AGED)
    log.append([record(1)], 0.0)
    log.close()
    assert numbers(reopened(tmp_path, AGED, now=159.0)) == [1]
    assert numbers(reopened(tmp_path, AGED, now=161.0)) == []
    log = reopened(tmp_path, AGED)
    log.append([record(2)], 1e9)
    log.close()
    again = reopened(tmp_path, AGED, now=200.0)
    assert numbers(again) == [2]
    again.expire(361.0)
    assert numbers(again) == []


def test_only_one_process_may_have_the_folder(tmp_path: Path) -> None:
    lock = lock_folder(tmp_path)
    with pytest.raises(FolderInUse):
        lock_folder(tmp_path)
    os.close(lock)
    os.close(lock_folder(tmp_path))


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "replay"
    folder.mkdir(mode=0o755)
    log = reopened(folder, SMALL)
    log.append([record(n) for n in range(200)], 0.0)
    assert len(list(folder.iterdir())) > 2
    assert {path.stat().st_mode & 0o077 for path in (folder, *folder.iterdir())} == {0}


def fail_at(call: Callable[..., object], number: int, error: OSError) -> Callable[..., object]:
    """The call, until it is called for the number-th time."""
    count = 0

    def failing(*arguments: object) -> object:
        nonlocal count
        count += 1
        if count >= number:
            raise error
        return call(*arguments)

    return failing


@pytest.mark.parametrize("call", ["write", "fsync"])
@pytest.mark.parametrize("at", range(1, 12))
@pytest.mark.parametrize("fresh", [True, False])
def test_wherever_the_disk_refuses_the_log_stays_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, at: int, fresh: bool
) -> None:
    log = reopened(tmp_path, SMALL)
    if not fresh:
        log.append([record(1)], 0.0)
    full = OSError(errno.ENOSPC, "No space left on device")
    batch = [record(n) for n in range(2, 22)]
    monkeypatch.setattr(segment_log.os, call, fail_at(getattr(os, call), at, full))
    refused = False
    try:
        log.append(batch, 0.0)
    except OSError:
        refused = True
    monkeypatch.undo()
    kept = numbers(log)
    assert kept == list(range(2 if fresh else 1, 2 + log.view().num_records - (not fresh)))
    assert refused or len(kept) == 20 + (not fresh)
    assert log.view().num_bytes == on_disk(tmp_path)
    assert log.append(batch, 0.0) == [n not in kept for n in range(2, 22)], "sending it again is all it takes"
    log.close()
    assert numbers(reopened(tmp_path, SMALL)) == list(range(2 if fresh else 1, 22))


def test_a_half_written_record_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = reopened(tmp_path)
    log.append([record(1)], 0.0)
    size = on_disk(tmp_path)
    real_write = os.write

    def half_then_full(file: int, data: memoryview) -> int:
        if len(data) > 60:
            return real_write(file, data[:60])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(durable.os, "write", half_then_full)
    with pytest.raises(OSError, match="No space"):
        log.append([record(2)], 0.0)
    monkeypatch.undo()
    assert on_disk(tmp_path) == size
    assert numbers(log) == [1]


RECORDS = st.lists(st.integers(0, 60), min_size=1, max_size=8).map(
    lambda sizes: [record(number, size) for number, size in enumerate(sizes)]
)


def ends_of(records: list[Record]) -> list[int]:
    ends, end = [], HEADER_BYTES
    for item in records:
        end += FRAME_BYTES + len(item.payload)
        ends.append(end)
    return ends


@settings(max_examples=60, deadline=None)
@given(RECORDS, st.data())
def test_cut_anywhere_every_whole_record_survives_and_none_is_invented(
    records: list[Record], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = reopened(folder)
        log.append(records, 0.0)
        log.close()
        path = segments(folder)[0]
        cut = data.draw(st.integers(0, path.stat().st_size))
        os.truncate(path, cut)
        whole = [item for item, end in zip(records, ends_of(records), strict=True) if end <= cut]
        again = reopened(folder)
        assert list(read_view(again.view())) == whole
        assert again.view().num_bytes == on_disk(folder), "the torn end is cut off"
        again.append([record(77)], 0.0)
        again.close()
        assert list(read_view(reopened(folder).view())) == [*whole, record(77)]


@settings(max_examples=100, deadline=None)
@given(RECORDS, st.data())
def test_damage_costs_only_the_records_that_it_hits(records: list[Record], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = reopened(folder)
        log.append(records, 0.0)
        log.close()
        path = segments(folder)[0]
        content = bytearray(path.read_bytes())
        at = data.draw(st.integers(HEADER_BYTES, len(content) - 1))
        content[at] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(content)
        ends = ends_of(records)
        hit = next(index for index, end in enumerate(ends) if at < end)
        again = reopened(folder)
        assert list(read_view(again.view())) == [*records[:hit], *records[hit + 1 :]]
        assert again.view().num_damaged == (hit < len(records) - 1), "damage at the end looks like a torn record"
        assert again.append([records[hit]], 0.0) == [True], "what was lost may be sent again"


@pytest.mark.parametrize("junk", [b"", b"x", b"x" * 20, b"x" * 5000, b"PLSEGM" + bytes(3000)])
def test_a_file_that_is_no_segment_stops_nothing_and_leaves_in_its_turn(tmp_path: Path, junk: bytes) -> None:
    log = reopened(tmp_path, SMALL)
    log.append([record(1)], 0.0)
    log.close()
    (tmp_path / "000000000000.segment").write_bytes(b"")  # before every other
    (tmp_path / "000000000005.segment").write_bytes(junk)
    (tmp_path / "notes.txt").write_text("not ours")
    again = reopened(tmp_path, SMALL)
    assert numbers(again) == [1]
    again.append([record(n) for n in range(2, 500)], 0.0)
    assert not (tmp_path / "000000000005.segment").exists()
    assert on_disk(tmp_path) <= SMALL.max_bytes
    assert (tmp_path / "notes.txt").exists()


def test_a_segment_of_a_newer_release_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paceline.trainer.segment.VERSION", 2)
    log = reopened(tmp_path)
    log.append([record(1)], 0.0)
    log.close()
    monkeypatch.undo()
    with pytest.raises(NewerFormat, match="format 2"):
        reopened(tmp_path)
    assert len(segments(tmp_path)) == 1


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"evicted": 1, "through": 9, "crc32": 0}', b"\xff"])
def test_a_damaged_count_costs_the_count_and_no_record(tmp_path: Path, content: bytes) -> None:
    log = reopened(tmp_path)
    log.append([record(1)], 0.0)
    log.close()
    (tmp_path / "evicted.json").write_bytes(content)
    again = reopened(tmp_path)
    assert numbers(again) == [1]
    assert again.view().num_evicted == 0


def test_what_leaves_while_it_is_read_is_missing_and_no_error(tmp_path: Path) -> None:
    log = reopened(tmp_path, SMALL)
    log.append([record(n) for n in range(30)], 0.0)
    reading = read_view(log.view())
    assert next(reading) == record(0)
    log.append([record(n) for n in range(30, 300)], 0.0)
    assert list(reading) == [record(n) for n in range(1, 6)], "the rest of the segment that was open"
