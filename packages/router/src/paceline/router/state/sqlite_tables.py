"""The tables of a state file, and what is read from and written to them. Transactions are the caller's."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

import numpy as np
import structlog

from paceline.router.arms import Arm
from paceline.router.evidence import Evidence, Shape
from paceline.router.reward import reward_of
from paceline.router.state.rows import MAX_MODELS, Row, evidence_of, pack

log = structlog.get_logger()

SCHEMA_VERSION = 2
MAX_ROWS = 100_000

_CREATE = (
    """
    CREATE TABLE IF NOT EXISTS models (
        shape TEXT NOT NULL, model TEXT NOT NULL, segments INTEGER NOT NULL, touched INTEGER NOT NULL,
        PRIMARY KEY (shape, model)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE IF NOT EXISTS sums (
        shape TEXT NOT NULL, model TEXT NOT NULL, arm TEXT NOT NULL, at INTEGER NOT NULL, sums BLOB NOT NULL,
        PRIMARY KEY (shape, model, arm)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE IF NOT EXISTS routers (
        router TEXT PRIMARY KEY, number INTEGER NOT NULL, seen_s REAL NOT NULL
    ) WITHOUT ROWID
    """,
)
_V1_SHAPE = str(Shape("ucb", 2, 0.99))  # what version 1 kept, whatever the policy, is what `ucb` keeps of it


def prepare(connection: sqlite3.Connection) -> None:
    """Makes the tables; takes over what version 1 kept. Raises ValueError for versions of later releases."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version not in (0, 1, SCHEMA_VERSION):
        raise ValueError(f"its schema has version {version}, this release knows up to {SCHEMA_VERSION}")
    for statement in _CREATE:
        connection.execute(statement)
    if version == 1:
        _take_over_version_1(connection)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _take_over_version_1(connection: sqlite3.Connection) -> None:
    rows = connection.execute("SELECT model, arm, pulls, reward_sum FROM arms LIMIT ?", (MAX_ROWS,)).fetchall()
    num_taken = 0
    for model, arm, pulls, reward_sum in rows:
        if isinstance(pulls, float) and isinstance(reward_sum, float) and isinstance(model, str):
            # Version 1 added up speeds.
            reward = reward_of(reward_sum / pulls) if pulls > 0.0 else 0.0
            packed = pack(np.array([pulls, pulls * reward]))
            connection.execute("INSERT OR REPLACE INTO models VALUES (?, ?, 1, 0)", (_V1_SHAPE, model))
            connection.execute("INSERT OR REPLACE INTO sums VALUES (?, ?, ?, 1, ?)", (_V1_SHAPE, model, arm, packed))
            num_taken += 1
    connection.execute("DROP TABLE arms")
    log.info("state of schema 1 was taken over, for policy ucb", arms=num_taken)


def read(connection: sqlite3.Connection, shape: Shape) -> dict[str, Evidence]:
    """All models."""
    query = "SELECT model FROM models WHERE shape = ? LIMIT ?"
    names = [name for (name,) in connection.execute(query, (str(shape), MAX_MODELS)) if isinstance(name, str)]
    found = {name: read_model(connection, shape, name) for name in names}
    return {name: evidence for name, evidence in found.items() if evidence is not None}


def read_model(connection: sqlite3.Connection, shape: Shape, model: str) -> Evidence | None:
    """None if nothing is known of it."""
    key = (str(shape), model)
    counted = connection.execute("SELECT segments FROM models WHERE shape = ? AND model = ?", key).fetchone()
    if counted is None:
        return None
    query = "SELECT arm, at, sums FROM sums WHERE shape = ? AND model = ? LIMIT ?"
    rows: Iterable[Row] = connection.execute(query, (*key, MAX_ROWS))
    return evidence_of(model, counted[0], rows, shape)


def replace(connection: sqlite3.Connection, shape: Shape, model: str, evidence: Evidence) -> None:
    """Puts all that is known of a model in place of what is there."""
    connection.execute("DELETE FROM sums WHERE shape = ? AND model = ?", (str(shape), model))
    write(connection, shape, model, evidence, evidence.rows)


def write(connection: sqlite3.Connection, shape: Shape, model: str, evidence: Evidence, changed: Iterable[Arm]) -> None:
    """Writes the arms that changed; of those that are forgotten or were bad, nothing is left."""
    key = (str(shape), model)
    (touched,) = connection.execute("SELECT coalesce(max(touched), 0) + 1 FROM models").fetchone()
    connection.execute("INSERT OR REPLACE INTO models VALUES (?, ?, ?, ?)", (*key, evidence.segments, touched))
    texts = {arm.to_text(): arm for arm in evidence.rows}
    kept = connection.execute("SELECT arm FROM sums WHERE shape = ? AND model = ?", key).fetchall()
    gone = [(*key, text) for (text,) in kept if text not in texts]
    connection.executemany("DELETE FROM sums WHERE shape = ? AND model = ? AND arm = ?", gone)
    rows = [
        (*key, arm.to_text(), evidence.segments, pack(evidence.sums[evidence.rows[arm]]))
        for arm in changed
        if arm in evidence.rows
    ]
    connection.executemany("INSERT OR REPLACE INTO sums VALUES (?, ?, ?, ?, ?)", rows)
    _drop_oldest(connection, shape)


def _drop_oldest(connection: sqlite3.Connection, shape: Shape) -> None:
    query = "SELECT model FROM models WHERE shape = ? ORDER BY touched DESC LIMIT -1 OFFSET ?"
    for (model,) in connection.execute(query, (str(shape), MAX_MODELS)).fetchall():
        for table in ("models", "sums"):
            connection.execute(f"DELETE FROM {table} WHERE shape = ? AND model = ?", (str(shape), model))


def is_new(connection: sqlite3.Connection, router: str, number: int) -> bool:
    """Whether this batch of a router wasn't added yet."""
    last = connection.execute("SELECT number FROM routers WHERE router = ?", (router,)).fetchone()
    return last is None or not isinstance(last[0], int) or number > last[0]


def mark(connection: sqlite3.Connection, router: str, number: int, now_s: float, keep_s: float) -> None:
    """Remembers the last batch of a router, and forgets routers not heard of for long."""
    statement = """
        INSERT INTO routers VALUES (?, ?, ?)
        ON CONFLICT (router) DO UPDATE SET number = max(number, excluded.number), seen_s = excluded.seen_s
    """
    connection.execute(statement, (router, number, now_s))
    connection.execute("DELETE FROM routers WHERE seen_s < ?", (now_s - keep_s,))
