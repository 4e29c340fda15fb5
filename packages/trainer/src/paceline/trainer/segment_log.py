"""A bounded, durable log of records in segment files, each id once; the oldest segment leaves first.

What `append` has returned from is on disk. Opening cuts a torn end off (the process died while writing), skips damaged
records and never fails for them. One owner calls the methods, one at a time; a `View` that it hands on can be read in
any thread.
"""

from __future__ import annotations

import json
import os
import secrets
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from paceline.trainer.durable import PRIVATE_FILE, make_private_folder, replace_synced, sync_folder, write_all
from paceline.trainer.segment import (
    HEADER_BYTES,
    MARKER_BYTES,
    Header,
    Record,
    decode_header,
    encode_header,
    encode_record,
    scan,
)

log = structlog.get_logger()

SUFFIX = ".segment"
EVICTED = "evicted.json"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a log may hold.

    Attributes:
        max_bytes: on disk.
        max_records: so that the ids kept in memory are bounded when records are tiny.
        segment_bytes: size at which a new segment is begun; what leaves, leaves by the segment.
        max_age_s: no record stays longer; 0 keeps them.
    """

    max_bytes: int
    max_records: int
    segment_bytes: int
    max_age_s: float = 0.0

    @property
    def segment_age_s(self) -> float:
        """Age at which a new segment is begun: a sixteenth, so that a record stays for 15/16 of max_age_s at least."""
        return self.max_age_s / 16


@dataclass(frozen=True, slots=True)
class View:
    """The log at one moment. segments: path and bytes that may be read, oldest first."""

    segments: tuple[tuple[Path, int], ...]
    num_records: int
    num_tokens: int
    num_bytes: int
    num_evicted: int
    num_damaged: int


@dataclass(slots=True)
class _Segment:
    number: int
    path: Path
    begun_unix_s: float
    size: int
    num_tokens: int = 0
    ids: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class _Writer:
    """The segment that takes appends, and how much of it is on disk for certain."""

    segment: _Segment
    file: int
    marker: bytes
    synced_size: int = 0
    synced_records: int = 0
    synced_tokens: int = 0


class SegmentLog:
    """Opens or makes the log in `folder`, which must be this process's alone. Raises OSError, NewerFormat."""

    def __init__(self, folder: Path, bounds: Bounds, now_unix_s: float) -> None:
        self._folder = folder
        self._bounds = bounds
        self._ids: set[bytes] = set()
        self._num_damaged = 0
        self._writer: _Writer | None = None
        make_private_folder(folder)
        self._num_evicted, self._evicted_through = _read_evicted(folder / EVICTED)
        numbered = sorted((int(path.stem), path) for path in folder.glob(f"*{SUFFIX}") if path.stem.isdigit())
        for _, path in (item for item in numbered if item[0] <= self._evicted_through):
            path.unlink()  # counted as evicted already
        found = [self._recover(number, path) for number, path in numbered if number > self._evicted_through]
        self._segments = [segment for segment in found if segment is not None]
        self._next_number = 1 + max([self._evicted_through, *(number for number, _ in numbered)])
        for segment in self._segments:  # one begun while the clock was ahead must not outstay the others
            segment.begun_unix_s = min(segment.begun_unix_s, now_unix_s)
        self.expire(now_unix_s)
        self._make_room(0)  # in case the bounds are smaller than last time

    def _recover(self, number: int, path: Path) -> _Segment | None:
        data = path.read_bytes()
        header = decode_header(data)
        if header is None:
            if len(data) <= HEADER_BYTES:  # the process died while making it
                path.unlink()
                return None
            self._num_damaged += 1
            log.error("replay segment without readable header; it takes up room until it leaves", segment=path.name)
            return _Segment(number, path, path.stat().st_mtime, len(data))
        found = scan(data, header.marker)
        if found.num_gaps:
            self._num_damaged += found.num_gaps
            log.error("replay segment is damaged; the rest of it is kept", segment=path.name, places=found.num_gaps)
        if found.end < len(data):
            log.warning("replay segment has a torn end; cut off", segment=path.name, lost_bytes=len(data) - found.end)
            os.truncate(path, found.end)
        segment = _Segment(number, path, header.begun_unix_s, found.end)
        for record in found.records:
            self._index(segment, record)
        return segment

    def _index(self, segment: _Segment, record: Record) -> None:
        segment.ids.append(record.lesson_id)
        segment.num_tokens += record.num_tokens
        self._ids.add(record.lesson_id)

    def view(self) -> View:
        """The log as it is now; for the owner to take between its other calls, and to hand on."""
        return View(
            segments=tuple((segment.path, segment.size) for segment in self._segments),
            num_records=self._num_records,
            num_tokens=sum(segment.num_tokens for segment in self._segments),
            num_bytes=self._num_bytes,
            num_evicted=self._num_evicted,
            num_damaged=self._num_damaged,
        )

    @property
    def _num_bytes(self) -> int:
        return sum(segment.size for segment in self._segments)

    @property
    def _num_records(self) -> int:
        return sum(len(segment.ids) for segment in self._segments)

    def append(self, records: Sequence[Record], now_unix_s: float) -> list[bool]:
        """Stores those whose id isn't there; they are on disk when this returns. Tells for each whether it is new.

        Raises:
            OSError: what could not be written is not there; the oldest may have left to make room all the same. Records
                that were synced before, because a segment was full, stay: to send them again is harmless.
        """
        self.expire(now_unix_s)
        try:
            stored = [self._add(record, now_unix_s) for record in records]
            self._sync()
        except OSError:
            self._undo()
            raise
        return stored

    def _add(self, record: Record, now_unix_s: float) -> bool:
        if record.lesson_id in self._ids:
            return False
        self._make_room(record.frame_bytes)
        writer = self._writer_for(record.frame_bytes, now_unix_s)
        write_all(writer.file, encode_record(record, writer.marker))
        writer.segment.size += record.frame_bytes
        self._index(writer.segment, record)
        return True

    def _make_room(self, size: int) -> None:
        bounds = self._bounds
        if size + HEADER_BYTES > bounds.max_bytes:
            raise ValueError(f"a record of {size} bytes can't be stored in {bounds.max_bytes}")
        while self._segments and (
            self._num_bytes + HEADER_BYTES + size > bounds.max_bytes or self._num_records >= bounds.max_records
        ):
            self._evict()

    def _writer_for(self, size: int, now_unix_s: float) -> _Writer:
        if self._writer is not None:
            segment = self._writer.segment
            too_old = self._bounds.max_age_s and now_unix_s - segment.begun_unix_s >= self._bounds.segment_age_s
            if too_old or (segment.ids and segment.size + size > self._bounds.segment_bytes):
                self._sync()
                self._close_writer()
        if self._writer is None:
            self._writer = self._begin(now_unix_s)
        return self._writer

    def _begin(self, now_unix_s: float) -> _Writer:
        header = Header(now_unix_s, secrets.token_bytes(MARKER_BYTES))
        number, self._next_number = self._next_number, self._next_number + 1
        path = self._folder / f"{number:012d}{SUFFIX}"
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE)
        segment = _Segment(number, path, now_unix_s, 0)
        self._segments.append(segment)
        self._writer = _Writer(segment, file, header.marker)  # before anything can fail, so that `_undo` finds it
        write_all(file, encode_header(header))
        segment.size = HEADER_BYTES
        return self._writer

    def _sync(self) -> None:
        writer = self._writer
        if writer is None or writer.synced_size == writer.segment.size:
            return
        os.fsync(writer.file)
        if not writer.synced_size:
            sync_folder(self._folder)
        writer.synced_size = writer.segment.size
        writer.synced_records = len(writer.segment.ids)
        writer.synced_tokens = writer.segment.num_tokens

    def _undo(self) -> None:
        """Takes back what isn't synced. The file is not written to again: after an error its state can't be trusted."""
        writer = self._writer
        if writer is None:
            return
        segment = writer.segment
        self._ids.difference_update(segment.ids[writer.synced_records :])
        del segment.ids[writer.synced_records :]
        segment.num_tokens = writer.synced_tokens
        segment.size = writer.synced_size
        try:
            os.ftruncate(writer.file, writer.synced_size)
            if not writer.synced_size:
                segment.path.unlink()
        except OSError as error:
            log.error("what was not stored can't be removed", segment=segment.path.name, why=error.strerror)
        if not writer.synced_size:
            self._segments.remove(segment)
        self._close_writer()

    def _close_writer(self) -> None:
        if self._writer is not None:
            os.close(self._writer.file)
            self._writer = None

    def expire(self, now_unix_s: float) -> None:
        """Drops every segment that was begun longer than max_age_s ago."""
        max_age_s = self._bounds.max_age_s
        while max_age_s and self._segments and now_unix_s - self._segments[0].begun_unix_s >= max_age_s:
            self._evict()

    def _evict(self) -> None:
        segment = self._segments.pop(0)
        if self._writer is not None and self._writer.segment is segment:
            self._close_writer()
        self._ids.difference_update(segment.ids)
        self._num_evicted += len(segment.ids)
        self._evicted_through = segment.number
        try:
            replace_synced(self._folder / EVICTED, _encode_evicted(self._num_evicted, self._evicted_through))
        except (
            OSError
        ) as error:  # a full disk must not keep room from being made; the next eviction counts this one too
            log.warning("the count of evicted lessons can't be written", why=error.strerror)
        segment.path.unlink(missing_ok=True)

    def close(self) -> None:
        self._close_writer()


def read_view(view: View, newest_first: bool = False) -> Iterator[Record]:
    """The records of a view; those whose segment has left meanwhile are missing."""
    for path, size in reversed(view.segments) if newest_first else view.segments:
        try:
            with path.open("rb") as file:
                data = file.read(size)
        except FileNotFoundError:
            continue
        header = decode_header(data)
        if header is not None:
            records = scan(data, header.marker).records
            yield from reversed(records) if newest_first else records


def _encode_evicted(evicted: int, through: int) -> bytes:
    document = {"evicted": evicted, "through": through, "crc32": zlib.crc32(f"{evicted} {through}".encode())}
    return json.dumps(document).encode()


def _read_evicted(path: Path) -> tuple[int, int]:
    """How many records have ever left, and the number of the last segment that did."""
    try:
        data = path.read_bytes()
        document = json.loads(data)
        evicted, through = int(document["evicted"]), int(document["through"])
        if data != _encode_evicted(evicted, through):  # segments are deleted on its word, so it had better be right
            raise ValueError("wrong checksum")
        return evicted, through
    except FileNotFoundError:
        return 0, 0
    except (ValueError, TypeError, KeyError):
        log.warning("the count of evicted lessons is unreadable; it begins at 0 again", file=path.name)
        return 0, 0
