"""Keeps evidence in a SQLite file; several routers on one machine may share it.

Write-ahead logging makes each batch survive `kill -9`. A batch is added within one immediate transaction: another
process sees all of it or nothing, and none overwrites another's. A damaged file is set aside, and a new one begun.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import structlog

from paceline.router.evidence import Evidence, Knowledge, Shape
from paceline.router.state import sqlite_tables as tables
from paceline.router.state.base import Batch, StoreError
from paceline.router.state.rows import KEEP_ROUTERS_S, check_seen, longer

log = structlog.get_logger()

T = TypeVar("T")

BUSY_TIMEOUT_S = 5.0
MAX_SET_ASIDE = 100
_FILES = ("", "-wal", "-shm")
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class SqliteStore:
    """A `StateStore` in a file, whose folder is made if it isn't there. Its work is done in threads."""

    def __init__(self, path: Path, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        self.path = path.absolute()
        self._busy_timeout_s = busy_timeout_s
        self._connection: sqlite3.Connection | None = None
        self._shape: Shape | None = None
        self._inode: tuple[int, int] | None = None
        self._lock = threading.Lock()  # a cancelled call's thread may still be at work when the next begins

    async def open(self, shape: Shape, known: Knowledge) -> Knowledge:
        return await asyncio.to_thread(self._guarded, lambda: self._open(shape, known))

    async def apply(self, batch: Batch) -> Knowledge:
        return await asyncio.to_thread(self._guarded, lambda: self._apply(batch))

    async def read(self) -> Knowledge:
        return await asyncio.to_thread(self._guarded, self._read)

    async def close(self) -> None:
        await asyncio.to_thread(self._guarded, self._close)

    def _guarded(self, work: Callable[[], T]) -> T:
        with self._lock:
            try:
                return work()
            except (sqlite3.Error, OSError, ValueError) as error:
                self._close()
                raise StoreError(
                    f"the state file {self.path} can't be used ({error}); make it writable, move it away to learn "
                    "afresh, or choose another with --state sqlite:///PATH, or none with --state memory:"
                ) from error

    def _open(self, shape: Shape, known: Knowledge) -> Knowledge:
        self._close()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        found = self._present_inode() if self.path.exists() else None
        try:
            return self._opened(shape, known)
        except sqlite3.DatabaseError as error:
            self._close()
            if not _says_damage(error):
                raise
            self._set_aside(found, str(error))
            return self._opened(shape, known)

    def _opened(self, shape: Shape, known: Knowledge) -> Knowledge:
        # Transactions are written out, so Python is told to begin none of its own (isolation_level None).
        self._connection = sqlite3.connect(
            self.path, timeout=self._busy_timeout_s, isolation_level=None, check_same_thread=False
        )
        connection = self._connection
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        self._shape = shape
        with _Transaction(connection):
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise _Damaged(verdict)
            tables.prepare(connection)
            stored = tables.read(connection, shape)
            for model, evidence in longer(known, stored).items():
                tables.replace(connection, shape, model, evidence)
                stored[model] = evidence
        self._inode = self._present_inode()
        return stored

    def _apply(self, batch: Batch) -> Knowledge:
        connection, shape = self._ready()
        found: dict[str, Evidence] = {}
        with _Transaction(connection):
            is_new = tables.is_new(connection, batch.router, batch.number)
            for model, learnt in batch.learnt.items():
                known = tables.read_model(connection, shape, model) or Evidence.nothing(shape.width)
                found[model] = known
                check_seen(batch, model, known.segments)
                if is_new:
                    found[model] = known.then(learnt, shape.discount)
                    tables.write(connection, shape, model, found[model], learnt.rows)
            tables.mark(connection, batch.router, batch.number, time.time(), KEEP_ROUTERS_S)
        return found

    def _read(self) -> Knowledge:
        connection, shape = self._ready()
        return tables.read(connection, shape)

    def _ready(self) -> tuple[sqlite3.Connection, Shape]:
        if self._connection is None or self._shape is None:
            raise ValueError("it is not open")
        if self._present_inode() != self._inode:
            raise ValueError("it was removed or replaced")  # else SQLite would go on writing to a file without a name
        return self._connection, self._shape

    def _set_aside(self, damaged: tuple[int, int] | None, why: str) -> None:
        """Renames the file, and what SQLite has beside it, unless another router just did."""
        if damaged is None or self._present_inode() != damaged:
            return
        for number in range(1, MAX_SET_ASIDE + 1):
            aside = Path(f"{self.path}.damaged-{number}")
            if not aside.exists():
                break
        else:
            raise ValueError(f"it is damaged ({why}), and so were {MAX_SET_ASIDE} before it that lie beside it")
        for suffix in _FILES:
            if os.path.exists(f"{self.path}{suffix}"):
                os.rename(f"{self.path}{suffix}", f"{aside}{suffix}")
        log.error("the state file is damaged; it was set aside and learning begins anew", file=str(aside), why=why)

    def _present_inode(self) -> tuple[int, int]:
        found = os.stat(self.path)
        return found.st_dev, found.st_ino

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class _Damaged(sqlite3.DatabaseError):
    """What `quick_check` found."""


def _says_damage(error: sqlite3.DatabaseError) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(error, _Damaged) or (code is not None and code & 0xFF in _DAMAGE)


class _Transaction:
    """Takes the write lock at once, so that no transaction fails because another wrote meanwhile."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, _error: object, _traceback: object) -> None:
        if kind is None:
            self._connection.execute("COMMIT")
        elif self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
