"""What was learnt must outlive the process, and two routers on one store must lose nothing of each other's."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from bandits import A, B
from redis_server import RedisServer
from structlog.testing import capture_logs

from paceline.router.arms import PLAIN, Arm
from paceline.router.evidence import Evidence, Knowledge, Shape
from paceline.router.state import make_store, shown
from paceline.router.state.base import Batch, StateStore, StoreError, StoreLost
from paceline.router.state.memory import MemoryStore
from paceline.router.state.redis import RedisStore
from paceline.router.state.rows import MAX_MODELS, evidence_of, pack
from paceline.router.state.sqlite import SqliteStore
from paceline.wire.settings import StartupError

SHAPE = Shape("ucb", 2, 0.9)
EXACT = Shape("ucb", 2, 1.0)

WRITER = """
import asyncio, sys
from pathlib import Path
from paceline.router.arms import Arm
from paceline.router.evidence import Evidence, Shape
from paceline.router.state.base import Batch
from paceline.router.state.sqlite import SqliteStore

async def main():
    store = SqliteStore(Path(sys.argv[1]), busy_timeout_s=30.0)
    await store.open(Shape("ucb", 2, 1.0), {})
    for number in range(int(sys.argv[2])):
        await store.apply(Batch(sys.argv[3], number + 1, {"m": Evidence.of({Arm(("a",)): [1.0, 2.0]})}))
        print("written", flush=True)

asyncio.run(main())
"""


def writer(path: Path, count: int, router: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), str(count), router]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def learnt(arm: Arm, reward: float, segments: int = 1) -> Evidence:
    return Evidence.of({arm: [1.0, reward]}, segments)


def sums(known: Knowledge, arm: Arm, model: str = "m") -> list[float]:
    return known[model].of_arms([arm])[0].tolist() if model in known else [0.0, 0.0]


async def stored(path: Path, shape: Shape = EXACT) -> Knowledge:
    store = SqliteStore(path)
    known = await store.open(shape, {})
    await store.close()
    return known


@pytest.fixture(params=["memory", "sqlite", "redis"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StateStore]:
    server = RedisServer(tmp_path)
    made: StateStore = MemoryStore()
    if request.param == "sqlite":
        made = SqliteStore(tmp_path / "deep" / "down" / "router.db")
    if request.param == "redis":
        made = RedisStore(server.start().url)
    try:
        yield made
        await made.close()
    finally:
        server.stop()


# Every store


async def test_a_store_adds_up_as_learning_in_memory_does(store: StateStore) -> None:
    assert await store.open(SHAPE, {}) == {}
    await store.apply(Batch("r", 1, {"m": learnt(A, 2.0), "n": learnt(A, 3.0)}))
    reply = await store.apply(Batch("s", 1, {"m": learnt(B, 4.0, segments=3)}))
    assert reply.keys() == {"m"}
    known = await store.read()
    assert (known["m"].segments, known["n"].segments) == (4, 1)
    assert sums(known, A) == pytest.approx([0.9**3, 2.0 * 0.9**3], rel=1e-12)
    assert sums(known, B) == sums(reply, B) == [1.0, 4.0]
    assert sums(known, A, "n") == [1.0, 3.0]
    reply = await store.apply(Batch("r", 2, {"m": learnt(A, 1.0)}))
    assert sums(reply, A) == pytest.approx([1.0 + 0.9**4, 1.0 + 2.0 * 0.9**4], rel=1e-12)


async def test_a_batch_that_comes_again_is_added_once(store: StateStore) -> None:
    await store.open(EXACT, {})
    batch = Batch("r", 7, {"m": learnt(A, 2.0)})
    for _ in range(3):
        known = await store.apply(batch)
    assert sums(known, A) == [1.0, 2.0]
    await store.apply(Batch("other", 7, batch.learnt))
    known = await store.apply(Batch("r", 8, batch.learnt))
    assert sums(known, A) == [3.0, 6.0]
    assert sums(await store.apply(batch), A) == [3.0, 6.0]


async def test_arms_that_are_forgotten_leave_the_store(store: StateStore) -> None:
    await store.open(Shape("ucb", 2, 0.5), {})
    await store.apply(Batch("r", 1, {"m": learnt(A, 2.0)}))
    known = await store.apply(Batch("r", 2, {"m": learnt(PLAIN, 1.0, segments=30)}))
    assert set(known["m"].rows) == {PLAIN}
    assert set((await store.read())["m"].rows) == {PLAIN}


@pytest.mark.parametrize("store", ["sqlite", "redis"], indirect=True)
async def test_evidence_of_other_policies_is_kept_apart(store: StateStore) -> None:
    await store.open(EXACT, {})
    await store.apply(Batch("r", 1, {"m": learnt(A, 2.0)}))
    assert await store.open(Shape("thompson", 3, 1.0), {}) == {}
    assert sums(await store.open(EXACT, {}), A) == [1.0, 2.0]


async def test_a_store_that_lost_something_gets_it_back_from_who_knows_more(store: StateStore) -> None:
    await store.open(EXACT, {})
    await store.apply(Batch("r", 1, {"m": learnt(A, 2.0, segments=5), "n": learnt(A, 2.0, segments=5)}))
    known = {"m": learnt(B, 9.0, segments=4), "n": learnt(B, 9.0, segments=6), "o": learnt(B, 9.0)}
    found = await store.open(EXACT, known)
    assert (sums(found, A), sums(found, B)) == ([1.0, 2.0], [0.0, 0.0])
    assert (sums(found, A, "n"), sums(found, B, "n"), found["n"].segments) == ([0.0, 0.0], [1.0, 9.0], 6)
    assert sums(found, B, "o") == [1.0, 9.0]
    assert (await store.read()).keys() == {"m", "n", "o"}


@pytest.mark.parametrize("store", ["sqlite", "redis"], indirect=True)
async def test_a_batch_is_not_taken_by_a_store_that_has_lost_what_its_router_read(store: StateStore) -> None:
    await store.open(EXACT, {})
    with pytest.raises(StoreLost, match="3 were read"):
        await store.apply(Batch("r", 1, {"m": learnt(A, 2.0)}, seen={"m": 3}))
    await store.open(EXACT, {"m": learnt(A, 5.0, segments=3)})
    known = await store.apply(Batch("r", 1, {"m": learnt(A, 2.0)}, seen={"m": 3}))
    assert (sums(known, A), known["m"].segments) == ([2.0, 7.0], 4)


async def test_the_number_of_models_is_bounded(store: StateStore) -> None:
    await store.open(EXACT, {})
    for number in range(0, MAX_MODELS + 40, 10):
        await store.apply(Batch("r", number + 1, {f"m{number + n}": learnt(A, 1.0) for n in range(10)}))
    known = await store.read()
    assert len(known) == MAX_MODELS
    assert "m0" not in known
    assert f"m{MAX_MODELS + 39}" in known


# Rows of a store that others write to


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ((A.to_text(), 4, pack(np.array([1.0, 2.0, 3.0]))), "2 doubles"),
        ((A.to_text(), 4, "text"), "2 doubles"),
        ((A.to_text(), 6, pack(np.array([1.0, 2.0]))), "segment 6"),
        ((A.to_text(), None, pack(np.array([1.0, 2.0]))), "segment None"),
        ((A.to_text(), 4, pack(np.array([1.0, np.nan]))), "finite"),
        ((A.to_text(), 4, pack(np.array([-1.0, 2.0]))), "negative"),
        (("[" * 5000, 4, pack(np.array([1.0, 2.0]))), "recursion"),
        (("{}", 4, pack(np.array([1.0, 2.0]))), "an arm has"),
        ((None, 4, pack(np.array([1.0, 2.0]))), "is a text"),
        ((Arm(tuple(f"{n:02}" for n in range(17))).to_text(), 4, pack(np.array([1.0, 2.0]))), "17 drafters"),
    ],
)
def test_a_bad_row_is_left_out_and_said_and_the_others_count(row: tuple[object, object, object], why: str) -> None:
    good = (B.to_text(), 5, pack(np.array([1.0, 3.0])))
    with capture_logs() as logs:
        evidence = evidence_of("m", 5, [row, good], SHAPE)
    assert evidence is not None
    assert {arm: sums.tolist() for arm, sums in evidence.vectors()} == {B: [1.0, 3.0]}
    assert [why in entry["why"] for entry in logs] == [True]


@pytest.mark.parametrize("segments", [None, -1, 2**60, "5", 1.5])
def test_a_model_whose_count_is_none_is_left_out(segments: object) -> None:
    assert evidence_of("m", segments, [], SHAPE) is None


def test_a_model_with_nothing_but_bad_rows_is_empty() -> None:
    evidence = evidence_of("m", 5, [("x", 1, b"")], SHAPE)
    assert evidence is not None
    assert (evidence.segments, evidence.sums.shape) == (5, (0, 2))


# Files


async def test_a_file_brings_everything_back(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "router.db")
    await store.open(SHAPE, {})
    await store.apply(Batch("r", 1, {"m": learnt(A, 2.0, segments=2)}))
    await store.close()
    known = await stored(tmp_path / "router.db", SHAPE)
    assert known["m"].segments == 2
    assert sums(known, A) == [1.0, 2.0]


async def test_two_processes_on_one_file_lose_no_increment(tmp_path: Path) -> None:
    path, count = tmp_path / "router.db", 100
    await stored(path)
    writers = [writer(path, count, "r"), writer(path, count, "s")]
    for process in writers:
        await asyncio.to_thread(process.communicate, timeout=60)
        assert process.returncode == 0
    known = await stored(path)
    assert known["m"].segments == 2 * count
    assert sums(known, A) == [2.0 * count, 4.0 * count]


async def test_what_was_confirmed_survives_kill_9(tmp_path: Path) -> None:
    path, confirmed = tmp_path / "router.db", 20
    process = writer(path, 1_000_000, "r")
    assert process.stdout is not None
    for _ in range(confirmed):
        assert await asyncio.to_thread(process.stdout.readline) == "written\n"
    os.kill(process.pid, signal.SIGKILL)
    rest = await asyncio.to_thread(process.stdout.read)
    process.wait()
    at_least = confirmed + rest.count("written")
    pulls, reward = sums(await stored(path), A)
    assert at_least <= pulls <= at_least + 1
    assert reward == 2.0 * pulls


@pytest.mark.parametrize("content", [b"not a database, just a text" * 100, b"SQLite format 3\x00" + b"\xff" * 5000])
async def test_a_file_that_is_no_database_is_set_aside_as_it_is_and_a_new_one_begun(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "router.db"
    path.write_bytes(content)
    store = SqliteStore(path)
    with capture_logs() as logs:
        assert await store.open(EXACT, {}) == {}
    await store.apply(Batch("r", 1, {"m": learnt(A, 2.0)}))
    await store.close()
    aside = tmp_path / "router.db.damaged-1"
    assert aside.read_bytes() == content
    assert [(entry["log_level"], entry["file"]) for entry in logs] == [("error", str(aside))]
    assert sums(await stored(path), A) == [1.0, 2.0]


async def test_a_damaged_table_is_set_aside_and_what_a_router_knows_comes_into_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "router.db"
    store = SqliteStore(path)
    await store.open(EXACT, {})
    await store.apply(Batch("r", 1, {f"model {index}": learnt(A, 1.0) for index in range(190)}))
    known = await store.read()
    await store.close()
    for number in (1, 2):
        content = bytearray(path.read_bytes())
        content[4096:12288] = b"\xa5" * 8192
        path.write_bytes(content)
        found = await store.open(EXACT, known)
        assert (tmp_path / f"router.db.damaged-{number}").read_bytes() == content
        assert found.keys() == known.keys()
        await store.close()


async def test_a_file_of_a_later_release_is_refused_with_what_to_do_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "router.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 3")
    with pytest.raises(StoreError) as refused:
        await SqliteStore(path).open(EXACT, {})
    message = str(refused.value)
    assert "\n" not in message
    assert str(path) in message
    assert "version 3" in message
    assert "move it away" in message
    assert not (tmp_path / "router.db.damaged-1").exists()


async def test_a_file_of_the_first_release_is_taken_over_for_ucb(tmp_path: Path) -> None:
    path = tmp_path / "router.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE arms (model TEXT, arm TEXT, pulls REAL, reward_sum REAL)")
        connection.execute("INSERT INTO arms VALUES ('m', ?, 12.5, 20.0)", (A.to_text(),))
        connection.execute("INSERT INTO arms VALUES ('m', ?, 3.0, 3.1)", (PLAIN.to_text(),))
        connection.execute("PRAGMA user_version = 1")
    known = await stored(path, Shape("ucb", 2, 0.99))
    # Speeds were added up then: 1.6 and 1.033 on average.
    assert sums(known, A) == pytest.approx([12.5, 12.5 * (2.0 - 1.0 / 1.6)])
    assert sums(known, PLAIN) == pytest.approx([3.0, 3.0 * (2.0 - 3.0 / 3.1)])
    assert await stored(path, Shape("linucb", 44, 0.998)) == {}
    again = await stored(path, Shape("ucb", 2, 0.99))
    assert (sums(again, A), sums(again, PLAIN)) == (sums(known, A), sums(known, PLAIN))


async def test_nonsense_in_the_tables_of_a_file_costs_those_rows(tmp_path: Path) -> None:
    path = tmp_path / "router.db"
    store = SqliteStore(path)
    await store.open(EXACT, {})
    await store.apply(Batch("r", 1, {"m": learnt(A, 2.0), "n": learnt(A, 2.0)}))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO sums VALUES ('ucb/2/1/time', 'm', 'no arm', 1, x'00')")
        connection.execute("UPDATE models SET segments = 'many' WHERE model = 'n'")
        connection.execute("UPDATE routers SET number = 'last'")
    known = await store.read()
    assert known.keys() == {"m"}
    assert sums(known, A) == [1.0, 2.0]
    known = await store.apply(Batch("r", 2, {"m": learnt(A, 2.0), "n": learnt(A, 5.0)}))
    assert (sums(known, A), sums(known, A, "n")) == ([2.0, 4.0], [1.0, 5.0])
    await store.close()


# The setting


@pytest.mark.parametrize(
    "url",
    [
        "",
        "sqlite:///",
        "memory:x",
        "/tmp/router.db",
        "redis://",
        "redis://host/x",
        "redis://host:port/",
        "redis://h/0?a=b",
    ],
)
def test_a_state_setting_that_names_no_store_is_refused(url: str) -> None:
    with pytest.raises(StartupError, match="redis://HOST:PORT/DATABASE"):
        make_store(url)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://user:secret@host:1/2", "redis://user:…@host:1/2"),
        ("rediss://:secret@host", "rediss://:…@host"),
        ("redis://:se@cret@host", "redis://:…@host"),
        ("redis://host:1/2", "redis://host:1/2"),
        ("sqlite:///home/me@work/router.db", "sqlite:///home/me@work/router.db"),
    ],
)
def test_a_password_in_the_setting_is_never_said(url: str, said: str) -> None:
    assert shown(url) == said
    with pytest.raises(StartupError) as refused:
        make_store("redis://:secret@host/nonsense")
    assert "secret" not in str(refused.value)
