"""What was learnt must outlive the process, and two routers on one file must lose nothing of each other's."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from paceline.router.arms import PLAIN, Arm
from paceline.router.learner import Learner
from paceline.router.policies.ucb import DiscountedUcb
from paceline.router.state import make_store
from paceline.router.state.base import StateStore, StoreError
from paceline.router.state.memory import MemoryStore
from paceline.router.state.sqlite import SqliteStore
from paceline.router.statistics import ArmStats, Observation, Statistics
from paceline.wire.settings import StartupError

A = Arm(("a",))
OBSERVATIONS = [Observation("m", A, 2.0), Observation("m", PLAIN, 1.0), Observation("n", A, 3.0)]

WRITER = """
import asyncio, sys
from pathlib import Path
from paceline.router.arms import Arm
from paceline.router.state.sqlite import SqliteStore
from paceline.router.statistics import Observation, Statistics

async def main():
    store = SqliteStore(Path(sys.argv[1]), busy_timeout_s=30.0)
    await store.open(Statistics())
    for _ in range(int(sys.argv[2])):
        await store.apply([Observation("m", Arm((sys.argv[3],)), 2.0)], 1.0)
        print("written", flush=True)

asyncio.run(main())
"""


def writer(path: Path, count: int, drafter: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), str(count), drafter]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def expected(discount: float) -> Statistics:
    statistics = Statistics()
    for observation in OBSERVATIONS:
        statistics = statistics.learn(observation, discount)
    return statistics


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> StateStore:
    return MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "deep" / "down" / "router.db")


async def test_a_store_adds_up_as_learning_in_memory_does(store: StateStore) -> None:
    assert await store.open(Statistics()) == Statistics()
    assert await store.apply(OBSERVATIONS, 0.9) == expected(0.9)
    await store.close()


async def test_arms_that_are_forgotten_leave_the_store(store: StateStore) -> None:
    await store.open(Statistics())
    await store.apply([Observation("m", A, 2.0)], 0.5)
    statistics = await store.apply([Observation("m", PLAIN, 1.0)] * 12, 0.5)
    assert set(statistics.of("m")) == {PLAIN}
    await store.close()


async def test_a_file_brings_everything_back(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "router.db")
    await store.open(Statistics())
    await store.apply(OBSERVATIONS, 0.9)
    await store.close()
    assert await SqliteStore(tmp_path / "router.db").open(Statistics()) == expected(0.9)


async def test_two_processes_on_one_file_lose_no_increment(tmp_path: Path) -> None:
    path, count = tmp_path / "router.db", 100
    await SqliteStore(path).open(Statistics())
    writers = [writer(path, count, "a"), writer(path, count, "a")]
    for process in writers:
        await asyncio.to_thread(process.communicate, timeout=60)
        assert process.returncode == 0
    stats = (await SqliteStore(path).open(Statistics())).of("m")[A]
    assert (stats.pulls, stats.reward_sum) == (2.0 * count, 4.0 * count)


async def test_what_was_confirmed_survives_kill_9(tmp_path: Path) -> None:
    path, confirmed = tmp_path / "router.db", 20
    process = writer(path, 1_000_000, "a")
    assert process.stdout is not None
    for _ in range(confirmed):
        assert await asyncio.to_thread(process.stdout.readline) == "written\n"
    os.kill(process.pid, signal.SIGKILL)
    rest = await asyncio.to_thread(process.stdout.read)
    process.wait()
    at_least = confirmed + rest.count("written")
    stats = (await SqliteStore(path).open(Statistics())).of("m")[A]
    assert at_least <= stats.pulls <= at_least + 1
    assert stats.reward_sum == 2.0 * stats.pulls


@pytest.mark.parametrize("content", [b"not a database, just a text" * 100, b"SQLite format 3\x00" + b"\xff" * 5000])
async def test_a_file_that_is_no_database_is_refused_with_what_to_do_and_left_as_it_is(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "router.db"
    path.write_bytes(content)
    with pytest.raises(StoreError) as refused:
        await SqliteStore(path).open(Statistics())
    message = str(refused.value)
    assert "\n" not in message
    assert str(path) in message
    assert "move it away" in message
    assert path.read_bytes() == content


async def test_a_damaged_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "router.db"
    store = SqliteStore(path)
    await store.open(Statistics())
    await store.apply([Observation(f"model {index}", A, 1.0) for index in range(500)], 1.0)
    await store.close()
    content = bytearray(path.read_bytes())
    content[4096:12288] = b"\xa5" * 8192
    path.write_bytes(content)
    with pytest.raises(StoreError):
        await SqliteStore(path).open(Statistics())


@pytest.mark.parametrize("url", ["", "redis://localhost", "sqlite:///", "memory:x", "/tmp/router.db"])
def test_a_state_setting_that_names_no_store_is_refused(url: str) -> None:
    with pytest.raises(StartupError, match="sqlite:///PATH"):
        make_store(url)


# The learner


class BrokenStore(MemoryStore):
    """Fails while `broken`."""

    broken = False
    num_failures = 0

    async def open(self, known: Statistics) -> Statistics:
        self._check()
        return await super().open(known)

    async def apply(self, observations: object, discount: float) -> Statistics:
        self._check()
        return await super().apply(observations, discount)  # type: ignore[arg-type]

    def _check(self) -> None:
        if self.broken:
            self.num_failures += 1
            raise StoreError("the disk is full")


async def test_learning_goes_on_while_the_store_is_away_and_arrives_there_when_it_is_back() -> None:
    store = BrokenStore()
    learner = Learner(DiscountedUcb(discount=1.0), store, retry_s=0.01)
    await learner.start()
    store.broken = True
    for _ in range(5):
        learner.learn(Observation("m", A, 2.0))
    async with asyncio.timeout(5):
        while store.num_failures < 3:
            await asyncio.sleep(0.005)
    assert learner.report("m", [A])[0].stats.pulls == 5.0
    assert learner.choose("m", [PLAIN, A]) == PLAIN
    store.broken = False
    await learner.close()
    assert (await store.open(Statistics())).of("m")[A].pulls == 5.0


async def test_a_learner_that_is_closed_has_written_everything(tmp_path: Path) -> None:
    learner = Learner(DiscountedUcb(discount=1.0), SqliteStore(tmp_path / "router.db"))
    await learner.start()
    for _ in range(700):
        learner.learn(Observation("m", A, 2.0))
    await learner.close()
    assert (await SqliteStore(tmp_path / "router.db").open(Statistics())).of("m")[A].pulls == 700.0


async def test_a_file_that_was_removed_comes_back_with_what_the_router_still_knows(tmp_path: Path) -> None:
    path = tmp_path / "router.db"
    learner = Learner(DiscountedUcb(discount=1.0), SqliteStore(path), retry_s=0.01)
    await learner.start()
    learner.learn(Observation("m", A, 2.0))
    await until(lambda: stored_pulls(path) == 1.0)
    for name in ("router.db", "router.db-wal", "router.db-shm"):
        os.unlink(tmp_path / name)
    learner.learn(Observation("m", A, 2.0))
    await until(path.exists)
    await learner.close()
    assert (await SqliteStore(path).open(Statistics())).of("m")[A] == ArmStats(2.0, 4.0)


def stored_pulls(path: Path) -> float:
    """What the file holds, read without the code under test."""
    (total,) = sqlite3.connect(path).execute("SELECT coalesce(sum(pulls), 0) FROM arms").fetchone()
    return float(total)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)
