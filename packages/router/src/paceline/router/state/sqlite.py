"""Keeps statistics in a SQLite file; several routers on one machine may share it.

Write-ahead logging makes each batch survive `kill -9`. All sums are changed by SQL within one immediate
transaction: another process sees all of a batch or nothing, and none overwrites another's.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from paceline.router.state.base import StoreError
from paceline.router.statistics import FORGOTTEN_PULLS, Observation, Statistics

T = TypeVar("T")

SCHEMA_VERSION = 1
BUSY_TIMEOUT_S = 5.0
MAX_ROWS = 100_000

_CREATE = """
CREATE TABLE IF NOT EXISTS arms (
    model TEXT NOT NULL,
    arm TEXT NOT NULL,
    pulls REAL NOT NULL,
    reward_sum REAL NOT NULL,
    PRIMARY KEY (model, arm)
) WITHOUT ROWID
"""
_RESTORE = "INSERT INTO arms VALUES (?, ?, ?, ?) ON CONFLICT (model, arm) DO NOTHING"
_DISCOUNT = """
UPDATE arms SET pulls = pulls * :discount, reward_sum = reward_sum * :discount WHERE model = :model
"""
_ADD = """
INSERT INTO arms VALUES (:model, :arm, 1.0, :reward)
ON CONFLICT (model, arm) DO UPDATE SET pulls = pulls + 1.0, reward_sum = reward_sum + excluded.reward_sum
"""
_FORGET = "DELETE FROM arms WHERE model = :model AND pulls < :forgotten"
_READ = f"SELECT model, arm, pulls, reward_sum FROM arms LIMIT {MAX_ROWS}"


class SqliteStore:
    """A `StateStore` in a file, whose folder is made if it isn't there. Its work is done in threads."""

    def __init__(self, path: Path, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        self.path = path.absolute()
        self._busy_timeout_s = busy_timeout_s
        self._connection: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None
        self._lock = threading.Lock()  # a cancelled call's thread may still be at work when the next begins

    async def open(self, known: Statistics) -> Statistics:
        return await asyncio.to_thread(self._guarded, lambda: self._open(known))

    async def apply(self, observations: Sequence[Observation], discount: float) -> Statistics:
        return await asyncio.to_thread(self._guarded, lambda: self._apply(observations, discount))

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

    def _open(self, known: Statistics) -> Statistics:
        self._close()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Transactions are written out, so Python is told to begin none of its own (isolation_level None).
        self._connection = sqlite3.connect(
            self.path, timeout=self._busy_timeout_s, isolation_level=None, check_same_thread=False
        )
        connection = self._connection
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        with _Transaction(connection):
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version not in (0, SCHEMA_VERSION):
                raise ValueError(f"its schema has version {version}, this release knows {SCHEMA_VERSION}")
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise ValueError(f"it is damaged: {verdict}")
            connection.execute(_CREATE)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.executemany(_RESTORE, known.rows())
            statistics = Statistics.from_rows(connection.execute(_READ))
        self._inode = self._present_inode()
        return statistics

    def _apply(self, observations: Sequence[Observation], discount: float) -> Statistics:
        if self._connection is None:
            raise ValueError("it is not open")
        if self._present_inode() != self._inode:
            raise ValueError("it was removed or replaced")  # else SQLite would go on writing to a file without a name
        connection = self._connection
        with _Transaction(connection):
            for observation in observations:
                values = {
                    "model": observation.model,
                    "arm": observation.arm.to_text(),
                    "reward": observation.reward,
                    "discount": discount,
                    "forgotten": FORGOTTEN_PULLS,
                }
                for statement in (_DISCOUNT, _ADD, _FORGET):
                    connection.execute(statement, values)
            return Statistics.from_rows(connection.execute(_READ))

    def _present_inode(self) -> tuple[int, int]:
        found = os.stat(self.path)
        return found.st_dev, found.st_ino

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


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
