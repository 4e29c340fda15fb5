"""Routers that share a Redis learn as one, and none of them waits for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from bandits import A, B
from redis.asyncio import Redis
from redis_server import RedisServer, free_port
from structlog.testing import capture_logs

from paceline.router.arms import PLAIN, Arm
from paceline.router.context import NUM_FEATURES
from paceline.router.evidence import MAX_ARMS, Evidence, Observation, Shape, merged
from paceline.router.learner import Learner
from paceline.router.policies import POLICIES
from paceline.router.policies.base import PolicyOptions
from paceline.router.policies.ucb import DiscountedUcb
from paceline.router.state.base import Batch, StoreError
from paceline.router.state.redis import RedisStore

EXACT = Shape("ucb", 2, 1.0)
QUICK_S = 0.3  # a store's deadline, so that a frozen server is noticed soon


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    yield server.start()
    server.stop()


@pytest.fixture
def durable(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path, durable=True)
    yield server.start()
    server.stop()


@asynccontextmanager
async def learner_at(server: RedisServer, discount: float = 1.0) -> AsyncIterator[Learner]:
    store = RedisStore(server.url, timeout_s=QUICK_S)
    learner = Learner(DiscountedUcb(discount=discount), store, retry_s=0.02, refresh_s=0.05)
    await learner.start()
    try:
        yield learner
    finally:
        await learner.close()


@asynccontextmanager
async def store_at(server: RedisServer, shape: Shape = EXACT, timeout_s: float = 5.0) -> AsyncIterator[RedisStore]:
    store = RedisStore(server.url, timeout_s=timeout_s)
    await store.open(shape, {})
    try:
        yield store
    finally:
        await store.close()


async def total(server: RedisServer, arm: Arm = A) -> list[float]:
    async with store_at(server) as store:
        known = await store.read()
    return known["m"].of_arms([arm])[0].tolist() if "m" in known else [0.0, 0.0]


def pulls(learner: Learner, arm: Arm = A) -> float:
    return learner.report("m", [arm])[0].pulls


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def one(arm: Arm, reward: float) -> dict[str, Evidence]:
    return {"m": Evidence.of({arm: [1.0, reward]})}


async def test_two_routers_learn_as_one(server: RedisServer) -> None:
    async with learner_at(server, 0.99) as first, learner_at(server, 0.99) as second:
        for _ in range(40):
            first.learn(Observation("m", A, 2.0))
            second.learn(Observation("m", B, 0.5))
            second.learn(Observation("m", PLAIN, 1.0))
        arms = [PLAIN, A, B]

        def agree() -> bool:
            reports = [[report.pulls for report in learner.report("m", arms)] for learner in (first, second)]
            return min(reports[0]) > 8 and np.allclose(reports[0], reports[1], rtol=1e-9)

        await until(agree)
        assert [learner.choose("m", arms).arm for learner in (first, second)] == [A, A]


@pytest.mark.timeout(120)
async def test_ten_thousand_updates_at_once_over_several_connections_lose_none(server: RedisServer) -> None:
    count, connections = 1250, 8

    async def updates(router: int) -> None:
        async with store_at(server, timeout_s=30.0) as store:
            for number in range(count):
                await store.apply(Batch(f"r{router}", number + 1, one(A if number % 2 else B, 2.0)))

    await asyncio.gather(*(updates(router) for router in range(connections)))
    half = count * connections / 2
    assert half * 2 == 10_000
    assert await total(server, A) == [half, 2.0 * half]
    assert await total(server, B) == [half, 2.0 * half]


async def test_discounted_sums_are_those_of_learning_in_one_place(server: RedisServer) -> None:
    """Batches of three routers, of one to four segments, in the order in which the server took them."""
    shape = Shape("ucb", 2, 0.97)
    draw = np.random.default_rng(3)
    expected: dict[str, Evidence] = {}
    for number in range(300):
        batch: dict[str, Evidence] = {}
        for _ in range(draw.integers(1, 5)):
            arm = (PLAIN, A, B)[draw.integers(3)]
            batch = merged(batch, {"m": Evidence.of({arm: [1.0, float(draw.random())]})}, shape.discount)
        async with asyncio.timeout(20):
            if number % 100 == 0:
                stores = [RedisStore(server.url) for _ in range(3)]
                for store in stores:
                    await store.open(shape, {})
            known = await stores[number % 3].apply(Batch(f"r{number}", 1, batch))
        expected = merged(expected, batch, shape.discount)
        if number % 100 == 99:
            for store in stores:
                await store.close()
    arms = [PLAIN, A, B]
    assert known["m"].segments == expected["m"].segments
    assert known["m"].of_arms(arms) == pytest.approx(expected["m"].of_arms(arms), rel=1e-9)


@pytest.mark.parametrize("name", POLICIES)
async def test_the_evidence_of_every_policy_comes_back_as_it_was(server: RedisServer, name: str) -> None:
    policy = POLICIES[name](PolicyOptions())
    context = (1.0, *np.random.default_rng(0).random(NUM_FEATURES - 1).tolist())
    learnt = Evidence.of(policy.evidence(Observation("m", A, 1.7, 0.3, context)))
    async with store_at(server, policy.shape) as store:
        await store.apply(Batch("r", 1, {"m": learnt}))
        known = await store.apply(Batch("r", 2, {"m": learnt}))
    both = learnt.then(learnt, policy.shape.discount)
    assert known["m"].of_arms([A]) == pytest.approx(both.of_arms([A]), rel=1e-12)


# Redis that fails


async def test_a_server_that_is_killed_costs_nothing_that_it_confirmed_and_gets_the_rest_once(
    durable: RedisServer,
) -> None:
    async with learner_at(durable) as first, learner_at(durable) as second:
        for learner in (first, second):
            for _ in range(50):
                learner.learn(Observation("m", A, 2.0))
            await asyncio.sleep(0)
        durable.kill()
        for _ in range(100):
            for learner in (first, second):
                began = time.monotonic()
                learner.choose("m", [PLAIN, A])
                learner.learn(Observation("m", A, 2.0))
                assert time.monotonic() - began < 0.1
            await asyncio.sleep(0.002)
        assert pulls(first) >= 150
        durable.start()
        await until(lambda: pulls(first) == pulls(second) == 300.0)
    assert await total(durable) == [300.0, 600.0]


async def test_a_server_that_forgets_everything_gets_it_back_from_a_router_that_knows(server: RedisServer) -> None:
    async with learner_at(server) as learner:
        for _ in range(30):
            learner.learn(Observation("m", A, 2.0))
        async with store_at(server) as store:
            while (await store.read()).get("m", Evidence.nothing(2)).segments < 30:
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.2)  # so that the learner has read that, too
        server.kill()
        for _ in range(5):
            learner.learn(Observation("m", A, 2.0))
        server.start()
    assert pulls(learner) == 35.0
    assert await total(server) == [35.0, 70.0]


async def test_a_server_that_was_emptied_gets_it_back_without_traffic(server: RedisServer) -> None:
    async with learner_at(server) as learner:
        learner.learn(Observation("m", A, 2.0))
        async with store_at(server) as store:
            while "m" not in await store.read():
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.2)
            client = Redis(port=server.port)
            await client.flushall()
            await client.aclose()
            async with asyncio.timeout(10):
                while "m" not in await store.read():
                    await asyncio.sleep(0.005)
    assert await total(server) == [1.0, 2.0]


async def test_a_frozen_server_blocks_nothing_and_what_it_did_on_thawing_is_not_done_again(
    server: RedisServer,
) -> None:
    """It adds the batches that it was sent while frozen, though nobody waits for the answers any more."""
    async with learner_at(server) as first, learner_at(server) as second:
        for learner in (first, second):
            learner.learn(Observation("m", A, 2.0))
        await until(lambda: pulls(first) == pulls(second) == 2.0)
        server.freeze()
        slowest_s, until_s = 0.0, time.monotonic() + 5 * QUICK_S
        num_learnt = 0
        while time.monotonic() < until_s:
            began = time.monotonic()
            for learner in (first, second):
                learner.choose("m", [PLAIN, A])
                learner.learn(Observation("m", A, 2.0))
            num_learnt += 2
            slowest_s = max(slowest_s, time.monotonic() - began)
            await asyncio.sleep(0.01)
        assert slowest_s < QUICK_S / 2
        server.thaw()
        await until(lambda: pulls(first) == pulls(second) == num_learnt + 2.0)
    assert await total(server) == [num_learnt + 2.0, 2.0 * (num_learnt + 2.0)]


async def test_closing_does_not_wait_for_a_frozen_server(server: RedisServer) -> None:
    async with asyncio.timeout(15):
        async with learner_at(server) as learner:
            learner.learn(Observation("m", A, 2.0))
            server.freeze()
            learner.learn(Observation("m", A, 2.0))
    server.thaw()


async def test_a_server_that_is_not_there_is_said_with_its_address_and_what_to_do() -> None:
    port = free_port()
    with pytest.raises(StoreError) as refused:
        await RedisStore(f"redis://:secret@127.0.0.1:{port}/3", timeout_s=QUICK_S).open(EXACT, {})
    message = str(refused.value)
    assert f"127.0.0.1:{port}/3" in message
    assert "--state" in message
    assert "\n" not in message
    assert "secret" not in message


# Redis that holds what others wrote


async def test_nonsense_in_redis_costs_those_rows_and_is_written_over(server: RedisServer) -> None:
    async with store_at(server) as store:
        await store.apply(Batch("r", 1, {**one(A, 2.0), "n": Evidence.of({A: [1.0, 2.0]})}))
        client = Redis(port=server.port)
        names, batches = await client.keys("*:models:*"), await client.keys("*:batch:*")
        (of_m,) = await client.keys("*:m")
        (of_n,) = await client.keys("*:n")
        nan = np.array([1.0, np.nan, 2.0]).tobytes()
        await client.hset(of_m, mapping={"no arm": nan, B.to_text(): nan, PLAIN.to_text(): "short", b"\xff": b""})
        await client.delete(of_n)
        await client.set(of_n, "a text where a hash should be")
        await client.zadd(names[0], {b"\xff\xfe": 1, "nowhere": 2})
        with capture_logs() as logs:
            known = await store.read()
        assert known.keys() == {"m"}
        assert known["m"].of_arms([A, B, PLAIN]).tolist() == [[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]]
        assert len(logs) == 6  # four rows of m; n and nowhere
        learnt = {"m": Evidence.of({B: [1.0, 3.0]}), "n": Evidence.of({A: [1.0, 5.0]})}
        known = await store.apply(Batch("r", 2, learnt))
        assert known["m"].of_arms([A, B]).tolist() == [[1.0, 2.0], [1.0, 3.0]]
        assert known["n"].of_arms([A]).tolist() == [[1.0, 5.0]]
        await client.delete(batches[0])
        await client.lpush(batches[0], "a list")
        with pytest.raises(StoreError, match="WRONGTYPE"):
            await store.apply(Batch("r", 3, learnt))
        await client.aclose()


async def test_what_is_kept_is_bounded_and_expires(server: RedisServer) -> None:
    async with store_at(server) as store:
        for number in range(MAX_ARMS + 20):
            learnt = {"m": Evidence.of({Arm((f"a{number:03}",)): [1.0 + number, 1.0]})}
            known = await store.apply(Batch("r", number + 1, learnt))
        assert len(known["m"].rows) == MAX_ARMS
        assert Arm(("a000",)) not in known["m"].rows
        client = Redis(port=server.port)
        keys = await client.keys("*")
        assert all(key.startswith(b"paceline:") for key in keys)
        assert all([await client.ttl(key) > 0 for key in keys])
        await client.aclose()


async def test_a_server_that_speaks_another_language_is_a_store_that_fails(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            writer.write(b"*3\r\n$1\r\nm\r\n:5\r\n$1\r\nx\r\n")

    other = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = other.sockets[0].getsockname()[1]
    with pytest.raises(StoreError):
        await RedisStore(f"redis://127.0.0.1:{port}", timeout_s=QUICK_S).open(EXACT, {})
    other.close()
