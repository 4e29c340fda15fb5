"""Verifiers that are processes, and die by SIGKILL in mid-answer: the client must not notice."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from conftest import DEADLINE_S, DEFAULT_MAX_TOKENS, Deploy, Deployment, answer
from verifier_process import Start, processes

SEED = 7
KILLED_AT = 10


@pytest.fixture
def start() -> Iterator[Start]:
    with processes() as begin:
        yield begin


async def ids_of(deployment: Deployment) -> list[int]:
    return [token async for event in deployment.generate() for token in event.tokens.ids]


async def test_a_verifier_process_killed_in_mid_answer_is_succeeded_by_another(deploy: Deploy, start: Start) -> None:
    deployment = await deploy()
    address = deployment.router.server.address
    doomed, heir = start("a", address, stop_at=KILLED_AT), start("b", address)
    await doomed.line()
    await heir.line()
    running = asyncio.create_task(ids_of(deployment))
    await doomed.stopped()
    doomed.kill()
    assert await running == answer(SEED, DEFAULT_MAX_TOKENS)


async def test_a_verifier_that_comes_back_under_its_own_name_and_address_goes_on_itself(
    deploy: Deploy, start: Start
) -> None:
    deployment = await deploy()
    router = deployment.router.server.address
    doomed = start("a", router, stop_at=KILLED_AT)
    port = int((await doomed.line()).rpartition(":")[2])
    running = asyncio.create_task(ids_of(deployment))
    await doomed.stopped()
    doomed.kill()
    start("a", router, port=port)
    async with asyncio.timeout(DEADLINE_S):
        assert await running == answer(SEED, DEFAULT_MAX_TOKENS)
