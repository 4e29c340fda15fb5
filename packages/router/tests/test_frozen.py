"""Verifiers that say nothing: frozen processes, and ones that take no request up. Nobody waits for them for ever."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import DEADLINE_S, DEFAULT_MAX_TOKENS, Deploy, Deployment, FakeVerifier, answer, eventually
from verifier_process import START_S, Start, processes

from paceline.wire.errors import PacelineError, Reason

SEED = 7
LEASE_S = 2.0


@pytest.fixture
def start() -> Iterator[Start]:
    with processes() as begin:
        yield begin


async def ids_of(call: Any) -> list[int]:
    return [token async for event in call for token in event.tokens.ids]


async def begun_at(deployment: Deployment, address: str) -> asyncio.Task[list[int]]:
    """A request that the process there was given."""
    known = FakeVerifier("a", address=address)
    deployment.announce(known)  # as it did a moment ago
    running = asyncio.create_task(ids_of(deployment.generate(timeout_s=2 * START_S)))
    await eventually(lambda: deployment.router.backend.roster.occupancy(known.member()) > 0.0)
    return running


async def succeeded(deployment: Deployment, running: asyncio.Task[list[int]]) -> bool:
    """Whether another that comes and keeps announcing itself gives the client the same text."""
    heir = await deployment.verifier("b")
    async with asyncio.timeout(START_S):
        while not running.done():
            deployment.announce(heir)
            await asyncio.wait([running], timeout=0.1)
    return await running == answer(SEED, DEFAULT_MAX_TOKENS) and len(heir.requests) == 1


async def test_a_verifier_frozen_in_mid_answer_is_succeeded_after_its_lease(deploy: Deploy, start: Start) -> None:
    deployment = await deploy(lease_s=LEASE_S)
    frozen = start("a", deployment.router.server.address, stop_at=10)
    running = await begun_at(deployment, await frozen.line())
    await frozen.stopped()
    frozen.freeze()
    assert await succeeded(deployment, running)


async def test_one_that_froze_before_the_request_came_takes_its_connection_and_loses_it(
    deploy: Deploy, start: Start
) -> None:
    deployment = await deploy(lease_s=LEASE_S)
    frozen = start("a", deployment.router.server.address)
    address = await frozen.line()
    frozen.freeze()
    running = await begun_at(deployment, address)
    assert await succeeded(deployment, running)
    frozen.thaw()
    await eventually(lambda: "a" in [member.member_id for member in deployment.router.backend.roster.available()])


async def test_one_whose_announcements_go_on_may_be_silent_for_longer_than_a_lease(deploy: Deploy) -> None:
    deployment = await deploy(lease_s=0.5)
    busy = await deployment.verifier("a", stop_at=0)
    other = await deployment.verifier("b", announced=False)
    running = asyncio.create_task(ids_of(deployment.generate()))
    await busy.stopped.wait()
    begun_s = time.monotonic()
    while time.monotonic() - begun_s < 1.5:
        deployment.announce(busy)
        deployment.announce(other)
        await asyncio.sleep(0.02)
    assert not running.done()
    busy.resume.set()
    assert await running == answer(SEED, DEFAULT_MAX_TOKENS)
    assert other.requests == []


async def test_one_that_takes_no_request_up_is_busy_and_another_is_asked(deploy: Deploy) -> None:
    deployment = await deploy(accept_s=1.0)
    silent = await deployment.verifier("a", silent=True)
    await deployment.verifier("b")
    async with asyncio.timeout(DEADLINE_S):
        assert await ids_of(deployment.generate()) == answer(SEED, DEFAULT_MAX_TOKENS)
    await eventually(lambda: silent.num_cancelled == 1)
    assert len(deployment.router.backend.roster.available()) == 2  # it announces itself, so it isn't lost


@pytest.mark.parametrize("reason", [Reason.LOADING, Reason.DRAINING])
async def test_one_that_is_not_serving_costs_a_moment(deploy: Deploy, reason: Reason) -> None:
    deployment = await deploy()
    await deployment.verifier("a", refusal=PacelineError(reason, "not now", retry_after_s=1.0))
    await deployment.verifier("b")
    async with asyncio.timeout(DEADLINE_S):
        assert await ids_of(deployment.generate()) == answer(SEED, DEFAULT_MAX_TOKENS)
    assert [member.member_id for member in deployment.router.backend.roster.available()] == ["b"]
