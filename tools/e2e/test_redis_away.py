"""Redis frozen and killed for ten seconds under load: nobody notices, and what was learnt meanwhile is added once."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from errands import Asked, Door, End, Errand, Known, answers_of, draw_errands
from fleet import DEADLINE_S, ROUTERS, Fleet, fleet_in, until
from tiny_target import make_tiny_target

from paceline.router.arms import PLAIN, Arm
from paceline.router.evidence import Observation
from paceline.router.learner import Learner
from paceline.router.policies.ucb import DiscountedUcb
from paceline.router.state.redis import TIMEOUT_S, RedisStore

AWAY_S = 10.0
# With --policy fixed nobody changes drafters in mid-segment, and an answer shorter than a segment is one: so requests
# that ended are segments that were taught.
SHORT = 50
PAUSE_S = 0.02  # of each client, between two requests: they share a machine with all they ask
A = Arm(("a",))


@dataclass
class Load:
    """Clients of both routers over both doors, one request after the other until they are stopped.

    Attributes:
        ended: at which times requests ended, and how long they took.
        faults: answers that are not what they must be.
    """

    fleet: Fleet
    known: dict[Errand, Known]
    ended: list[tuple[float, float]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    stopped: bool = False

    async def client(self, router: str, door: Door, rng: random.Random) -> None:
        while not self.stopped:
            errand = rng.choice(list(self.known))
            began_s = time.monotonic()
            asked = await Asked(errand, door, router).run(self.fleet.addresses[router])
            self.ended.append((time.monotonic(), time.monotonic() - began_s))
            fault = asked.why if asked.end is not End.FINISHED else self.known[errand].difference(asked)
            self.faults += [fault] if fault else []
            await asyncio.sleep(PAUSE_S)

    def between(self, since_s: float, until_s: float) -> list[float]:
        """How long those took that ended then."""
        return [took_s for at_s, took_s in self.ended if since_s <= at_s <= until_s]


@dataclass
class Beside:
    """A third router's learner in this process, where single choices can be timed."""

    learner: Learner
    choices_s: list[float] = field(default_factory=list)
    taught: int = 0

    def choose_and_learn(self) -> None:
        began_s = time.perf_counter()
        self.learner.choose("beside", [PLAIN, A])
        self.learner.learn(Observation("beside", A, 2.0))
        self.choices_s.append(time.perf_counter() - began_s)
        self.taught += 1

    async def keep_on(self) -> None:
        while True:
            self.choose_and_learn()
            await asyncio.sleep(0.01)


@asynccontextmanager
async def under_load(fleet: Fleet, known: dict[Errand, Known]) -> AsyncIterator[tuple[Load, Beside]]:
    """On leaving everybody has stopped, and nothing is under way but what the store was not told yet."""
    learner = Learner(DiscountedUcb(discount=1.0), RedisStore(fleet.redis.url))
    await learner.start()
    load, beside = Load(fleet, known), Beside(learner)
    rng = random.Random(1)
    clients = [
        asyncio.create_task(load.client(router, door, random.Random(rng.random())))
        for router in ROUTERS
        for door in Door
    ]
    learning = asyncio.create_task(beside.keep_on())
    try:
        yield load, beside
        load.stopped = True
        learning.cancel()
        await asyncio.gather(*clients)
        await until(lambda: _all_told(fleet, beside), "a Redis that has what this process learnt")
    finally:
        for task in (*clients, learning):
            task.cancel()
        await learner.close()


async def _all_told(fleet: Fleet, beside: Beside) -> bool:
    store = RedisStore(fleet.redis.url)
    try:
        found = (await store.open(DiscountedUcb(discount=1.0).shape, {})).get("beside")
    finally:
        await store.close()
    weight, rewards = found.of_arms([A])[0] if found else (0.0, 0.0)
    assert weight <= beside.taught, "something was added twice"
    return bool(weight == beside.taught and rewards == 2.0 * beside.taught)


async def everything_once(fleet: Fleet, taught: int) -> None:
    """Until Redis has every segment that was taught. Raises AssertionError if it has more, then or later."""

    async def has_all() -> bool:
        evidence = await fleet.evidence()
        segments = evidence.segments if evidence else 0
        assert segments <= taught, f"{segments} segments are stored, and {taught} were taught"
        return segments == taught

    await until(has_all, f"a Redis with {taught} segments", DEADLINE_S)


@pytest.mark.parametrize("how", ["frozen", "killed"])
def test_ten_seconds_without_redis(
    how: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_tiny_target(tmp_path_factory.mktemp("model"))

    async def ten_seconds(fleet: Fleet) -> None:
        go: Callable[[], object] = fleet.redis.freeze if how == "frozen" else fleet.redis.kill
        come: Callable[[], object] = fleet.redis.thaw if how == "frozen" else fleet.redis.start
        await fleet.start_all()
        errands = draw_errands(random.Random(5), 8, SHORT, SHORT)
        known = await answers_of(errands, ROUTERS[0], fleet.addresses[ROUTERS[0]])
        async with under_load(fleet, known) as (load, beside):
            await asyncio.sleep(1.0)
            before = await fleet.evidence()
            assert before is not None
            beside.choices_s.clear()
            gone_s = time.monotonic()
            go()
            await asyncio.sleep(AWAY_S)
            # What was known and what is learnt meanwhile is what is chosen by.
            believed = [sum(arm.pulls for arm in (await fleet.status(router)).arms) for router in ROUTERS]
            assert min(believed) >= 1.0
            assert beside.learner.report("beside", [A])[0].pulls == beside.taught
            back_s = time.monotonic()
            come()
            choices_s = list(beside.choices_s)
            await asyncio.sleep(1.0)
        assert load.faults == []
        taught = len(errands) + len(load.ended)
        await everything_once(fleet, taught)
        told_s = time.monotonic() - back_s
        again = await answers_of(errands, ROUTERS[1], fleet.addresses[ROUTERS[1]])
        await everything_once(fleet, taught + len(again))
        away, present = load.between(gone_s, back_s), load.between(0.0, gone_s)
        p99_s = float(np.quantile(choices_s, 0.99))
        with capsys.disabled():
            print(
                f"\nRedis {how} for {back_s - gone_s:.1f} s: {len(away)} requests answered meanwhile (median "
                f"{np.median(away):.3f} s, before {np.median(present):.3f} s; longest {max(away):.3f} s); beside them "
                f"chosen and learnt {len(choices_s)} times, p99 {p99_s * 1e3:.2f} ms, longest "
                f"{max(choices_s) * 1e3:.2f} ms; {taught} segments of routers ({before.segments} before) and "
                f"{beside.taught} of a learner stored, each once, {told_s:.1f} s after it was back"
            )
        assert len(away) > len(present)
        # Whoever waited for the store would have waited for its deadline.
        assert p99_s < TIMEOUT_S / 10
        assert max(away) < DEADLINE_S

    with fleet_in(tmp_path, model, policy="fixed") as fleet:
        asyncio.run(ten_seconds(fleet))
