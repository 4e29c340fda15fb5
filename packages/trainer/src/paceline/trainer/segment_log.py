"""An append-only log of records in segment files, safe after `kill -9` and power loss.

A record is a header (length and CRC-32 of the payload, little-endian) and the payload. What `append` has returned from
is on disk. At opening, a torn record at the end (the process died while writing it) is cut off; a damaged one in the
middle ends what can be read of its segment, which is counted and logged, and the other segments stay readable.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

log = structlog.get_logger()

HEADER = struct.Struct("<II")
MAX_RECORD_BYTES = 16 * 1024 * 1024
SUFFIX = ".log"
PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700


@dataclass(slots=True)
class Segment:
    """One file: `size` bytes hold `num_records` whole records; `written_s` is when the last one came (Unix time)."""

    number: int
    path: Path
    size: int
    num_records: int
    written_s: float


class SegmentLog:
    """Records in the order in which they were appended, bounded by bytes.

    Args:
        folder: made if it isn't there; readable by its owner only.
        max_bytes: of all segments together; when exceeded, the oldest segment leaves.
        segment_bytes: size at which a new segment is begun.
    """

    def __init__(self, folder: Path, max_bytes: int, segment_bytes: int) -> None:
        self.num_damaged = 0
        self._folder = folder
        self._max_bytes = max_bytes
        self._segment_bytes = segment_bytes
        folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        paths = sorted(path for path in folder.glob(f"*{SUFFIX}") if path.stem.isdigit())
        self.segments = [self._recover(path, last=path == paths[-1]) for path in paths]
        self._file: int | None = None

    def _recover(self, path: Path, last: bool) -> Segment:
        size = count = 0
        for record in _read(path):
            size += HEADER.size + len(record)
            count += 1
        on_disk = path.stat().st_size
        if on_disk > size:
            self.num_damaged += 0 if last else 1
            log.warning("log segment has a torn or damaged end", segment=path.name, lost_bytes=on_disk - size)
            os.truncate(path, size)
        return Segment(int(path.stem), path, size, count, path.stat().st_mtime)

    @property
    def num_bytes(self) -> int:
        return sum(segment.size for segment in self.segments)

    def append(self, records: Sequence[bytes], now_s: float) -> list[Segment]:
        """Writes the records and syncs them to disk; returns the segments that had to leave for them.

        If writing fails (OSError, a full disk), nothing of it remains and the log is as it was.
        """
        if any(len(record) > MAX_RECORD_BYTES for record in records):
            raise ValueError(f"a record is longer than {MAX_RECORD_BYTES} bytes")
        segment = self._writable()
        assert self._file is not None
        data = b"".join(HEADER.pack(len(record), zlib.crc32(record)) + record for record in records)
        try:
            _write_all(self._file, data)
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, segment.size)
            os.lseek(self._file, segment.size, os.SEEK_SET)
            raise
        segment.size += len(data)
        segment.num_records += len(records)
        segment.written_s = now_s
        return self._evict()

    def _writable(self) -> Segment:
        """The last segment, open for appending; a new one if there is none or it is full."""
        if not self.segments or self.segments[-1].size >= self._segment_bytes:
            self.close()
            number = self.segments[-1].number + 1 if self.segments else 1
            path = self._folder / f"{number:012d}{SUFFIX}"
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
            sync_folder(self._folder)
            self.segments.append(Segment(number, path, 0, 0, 0.0))
        if self._file is None:
            self._file = os.open(self.segments[-1].path, os.O_WRONLY)
            os.lseek(self._file, self.segments[-1].size, os.SEEK_SET)
        return self.segments[-1]

    def _evict(self) -> list[Segment]:
        gone: list[Segment] = []
        while len(self.segments) > 1 and self.num_bytes > self._max_bytes:
            gone.append(self.drop_oldest())
        return gone

    def drop_oldest(self) -> Segment:
        """Deletes the oldest segment."""
        segment = self.segments.pop(0)
        if not self.segments:
            self.close()
        segment.path.unlink(missing_ok=True)
        return segment

    def records(self, segment: Segment) -> Iterator[bytes]:
        """The whole records of one segment."""
        return _read(segment.path)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while header := file.read(HEADER.size):
            if len(header) < HEADER.size:
                return
            length, checksum = HEADER.unpack(header)
            if length > MAX_RECORD_BYTES:
                return
            record = file.read(length)
            if len(record) < length or zlib.crc32(record) != checksum:
                return
            yield record


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def sync_folder(folder: Path) -> None:
    """Makes a new, renamed or deleted entry of a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
