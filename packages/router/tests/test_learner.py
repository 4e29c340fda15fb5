"""Learning goes on in memory whatever the store does, and arrives there once."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
from bandits import A

from paceline.router.arms import PLAIN
from paceline.router.evidence import Knowledge, Observation, Shape
from paceline.router.learner import Learner
from paceline.router.policies.ucb import DiscountedUcb
from paceline.router.state.base import Batch, StoreError
from paceline.router.state.memory import MemoryStore
from paceline.router.state.sqlite import SqliteStore

EXACT = Shape("ucb", 2, 1.0)


class BrokenStore(MemoryStore):
    """Fails while `broken`, and `fails_next` times; while `deaf` it adds batches and fails then: answers are lost."""

    broken = False
    fails_next = 0
    deaf = False
    num_failures = 0

    async def open(self, shape: Shape, known: Knowledge) -> Knowledge:
        self._check(self.broken)
        return await super().open(shape, known)

    async def apply(self, batch: Batch) -> Knowledge:
        self.fails_next -= 1
        self._check(self.broken or self.fails_next >= 0)
        known = await super().apply(batch)
        self._check(self.deaf)
        return known

    def _check(self, fails: bool) -> None:
        if fails:
            self.num_failures += 1
            raise StoreError("the disk is full")


def exact(store: MemoryStore | SqliteStore, **fields: float) -> Learner:
    return Learner(DiscountedUcb(discount=1.0), store, retry_s=0.01, **fields)


def pulls(learner: Learner) -> float:
    return learner.report("m", [A])[0].pulls


async def test_what_was_learnt_last_is_stored_though_the_connection_turns_out_to_be_broken() -> None:
    store = BrokenStore()
    learner = exact(store)
    await learner.start()
    store.fails_next = 1
    learner.learn(Observation("m", A, 1.5))
    await learner.close()
    assert store.num_failures == 1
    assert (await store.open(EXACT, {}))["m"].segments == 1


async def test_a_store_that_stays_broken_holds_up_no_end() -> None:
    store = BrokenStore()
    learner = exact(store)
    await learner.start()
    store.broken = True
    learner.learn(Observation("m", A, 1.5))
    await learner.close()
    assert 1 <= store.num_failures <= 3


async def test_learning_goes_on_while_the_store_is_away_and_arrives_there_when_it_is_back() -> None:
    store = BrokenStore()
    learner = exact(store)
    await learner.start()
    store.broken = True
    for _ in range(5):
        learner.learn(Observation("m", A, 2.0))
    await until(lambda: store.num_failures >= 3)
    assert pulls(learner) == 5.0
    assert learner.choose("m", [PLAIN, A]).arm == PLAIN
    store.broken = False
    await learner.close()
    assert (await store.read())["m"].of_arms([A]).tolist() == [[5.0, 10.0]]


async def test_batches_whose_answers_are_lost_are_added_once() -> None:
    store = BrokenStore()
    learner = exact(store)
    await learner.start()
    store.deaf = True
    for number in range(20):
        learner.learn(Observation("m", A, 2.0))
        await until(lambda least=number: store.num_failures > least)  # type: ignore[misc]
        assert pulls(learner) >= number + 1
    store.deaf = False
    await learner.close()
    assert (await store.read())["m"].of_arms([A]).tolist() == [[20.0, 40.0]]
    assert pulls(learner) == 20.0


async def test_what_another_router_learnt_is_read_without_having_anything_to_tell(tmp_path: Path) -> None:
    path = tmp_path / "router.db"
    quiet = exact(SqliteStore(path), refresh_s=0.02)
    busy = exact(SqliteStore(path))
    await quiet.start()
    await busy.start()
    busy.learn(Observation("m", A, 2.0))
    await until(lambda: pulls(quiet) == 1.0)
    busy.learn(Observation("m", A, 2.0))
    await until(lambda: pulls(quiet) == 2.0)
    for learner in (quiet, busy):
        await learner.close()


async def test_a_learner_that_is_closed_has_written_everything(tmp_path: Path) -> None:
    learner = exact(SqliteStore(tmp_path / "router.db"))
    await learner.start()
    for _ in range(700):
        learner.learn(Observation("m", A, 2.0))
    await learner.close()
    assert stored_pulls(tmp_path / "router.db") == 700.0


async def test_a_file_that_was_removed_comes_back_with_what_the_router_still_knows(tmp_path: Path) -> None:
    path = tmp_path / "router.db"
    learner = exact(SqliteStore(path))
    await learner.start()
    learner.learn(Observation("m", A, 2.0))
    await until(lambda: stored_pulls(path) == 1.0)
    for name in ("router.db", "router.db-wal", "router.db-shm"):
        os.unlink(tmp_path / name)
    learner.learn(Observation("m", A, 2.0))
    await until(path.exists)
    await learner.close()
    known = await SqliteStore(path).open(EXACT, {})
    assert known["m"].of_arms([A]).tolist() == [[2.0, 4.0]]


async def test_a_router_begins_with_what_is_stored(tmp_path: Path) -> None:
    for expected in (1.0, 2.0, 3.0):
        learner = exact(SqliteStore(tmp_path / "router.db"))
        await learner.start()
        learner.learn(Observation("m", A, 2.0))
        assert pulls(learner) == expected
        await learner.close()


async def test_pending_segments_count_for_choices_until_they_end() -> None:
    learner = Learner(DiscountedUcb(), MemoryStore(), np.random.default_rng(0))
    await learner.start()
    first = learner.choose("m", [PLAIN, A]).arm
    learner.begin("m", first)
    second = learner.choose("m", [PLAIN, A]).arm
    learner.begin("m", second)
    assert {first, second} == {PLAIN, A}
    learner.end("m", second)
    assert learner.choose("m", [PLAIN, A]).arm == second
    await learner.close()


def stored_pulls(path: Path) -> float:
    """What the file holds, read without the code under test."""
    rows = sqlite3.connect(path).execute("SELECT sums FROM sums").fetchall()
    return float(sum(np.frombuffer(packed, "<f8")[0] for (packed,) in rows))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)
