"""The replay buffer: lessons on disk, each once, the oldest leaving first."""

from __future__ import annotations

import fcntl
import os
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from paceline.trainer.segment_log import PRIVATE_FILE, PRIVATE_FOLDER, Segment, SegmentLog

ID_BYTES = 16
COUNT_BYTES = 4
SEGMENTS = 16  # the bound is kept by dropping a sixteenth at a time
MAX_SEGMENT_BYTES = 64 * 1024 * 1024


class FolderInUse(Exception):
    """Another process has the buffer open."""


@dataclass(frozen=True, slots=True)
class StoredLesson:
    """lesson_id: 16 bytes; num_tokens: for statistics; payload: a serialized `paceline.v1.Lesson`."""

    lesson_id: bytes
    num_tokens: int
    payload: bytes

    def to_record(self) -> bytes:
        return self.lesson_id + self.num_tokens.to_bytes(COUNT_BYTES, "little") + self.payload

    @classmethod
    def from_record(cls, record: bytes) -> StoredLesson:
        end = ID_BYTES + COUNT_BYTES
        return cls(record[:ID_BYTES], int.from_bytes(record[ID_BYTES:end], "little"), record[end:])


@dataclass(frozen=True, slots=True)
class ReplayStatistics:
    lessons: int
    tokens: int
    num_bytes: int
    max_bytes: int
    evicted: int


class ReplayBuffer:
    """Lessons, durable and bounded. Thread-safe; each append is synced before the next one begins.

    Args:
        folder: of this buffer alone; locked, so that two trainers can't write into each other's files.
        max_bytes: of all lessons.
        ttl_s: lessons in segments untouched for longer leave; 0 keeps them.

    Raises:
        FolderInUse: another process has it open.
    """

    def __init__(self, folder: Path, max_bytes: int, ttl_s: float = 0.0) -> None:
        folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        self._lock_file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, PRIVATE_FILE)
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock_file)
            raise FolderInUse(str(folder)) from error
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._log = SegmentLog(folder, max_bytes, min(MAX_SEGMENT_BYTES, max(1, max_bytes // SEGMENTS)))
        self._mutex = threading.Lock()
        self._ids: set[bytes] = set()
        self._ids_of: dict[int, list[bytes]] = {}
        self._tokens_of: Counter[int] = Counter()
        self._evicted = 0
        for segment in self._log.segments:
            for record in self._log.records(segment):
                self._index(segment.number, StoredLesson.from_record(record))

    def _index(self, segment_number: int, lesson: StoredLesson) -> None:
        self._ids.add(lesson.lesson_id)
        self._ids_of.setdefault(segment_number, []).append(lesson.lesson_id)
        self._tokens_of[segment_number] += lesson.num_tokens

    def _forget(self, segment: Segment) -> None:
        gone = self._ids_of.pop(segment.number, [])
        self._ids.difference_update(gone)
        self._tokens_of.pop(segment.number, None)
        self._evicted += len(gone)

    def add(self, lessons: Sequence[StoredLesson], now_s: float) -> int:
        """Stores those that aren't there yet; they are on disk when this returns. Returns how many were new.

        Raises:
            OSError: they could not be written; none of them is stored.
        """
        with self._mutex:
            new = {lesson.lesson_id: lesson for lesson in lessons if lesson.lesson_id not in self._ids}
            if new:
                gone = self._log.append([lesson.to_record() for lesson in new.values()], now_s)
                number = self._log.segments[-1].number
                for lesson in new.values():
                    self._index(number, lesson)
                for segment in gone:
                    self._forget(segment)
            self._expire(now_s)
            return len(new)

    def _expire(self, now_s: float) -> None:
        while self._ttl_s and len(self._log.segments) > 1 and now_s - self._log.segments[0].written_s > self._ttl_s:
            self._forget(self._log.drop_oldest())

    def lessons(self) -> Iterator[StoredLesson]:
        """Every lesson, oldest first. Those added or evicted meanwhile may be missed."""
        with self._mutex:
            segments = list(self._log.segments)
        for segment in segments:
            if segment.path.exists():
                yield from map(StoredLesson.from_record, self._log.records(segment))

    def statistics(self) -> ReplayStatistics:
        with self._mutex:
            return ReplayStatistics(
                len(self._ids), self._tokens_of.total(), self._log.num_bytes, self._max_bytes, self._evicted
            )

    def close(self) -> None:
        with self._mutex:
            self._log.close()
            os.close(self._lock_file)
