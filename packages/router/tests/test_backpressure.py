"""Full verifiers: another is asked, and when all are full the client hears at once, and when to come back."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc
import pytest
from conftest import DEADLINE_S, DEFAULT_MAX_TOKENS, Deploy, Deployment, FakeVerifier, answer, eventually
from http_doors import MESSAGES, asked

from paceline.router.turnover import LONGEST_S, SHORTEST_S
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.status import from_rpc_error

SEED = 7
FULL = PacelineError(
    Reason.OVERLOADED, "64 requests are waiting, the limit", field="queue", value=64, limit=64, retry_after_s=1.0
)


async def ids_of(call: Any) -> list[int]:
    return [token async for event in call for token in event.tokens.ids]


async def refusal(deployment: Deployment) -> PacelineError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ids_of(deployment.generate())
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    error = from_rpc_error(caught.value)
    assert error is not None
    return error


async def test_the_queue_of_one_being_full_the_other_gets_it(deploy: Deploy) -> None:
    deployment = await deploy()
    full = await deployment.verifier("a", refusal=FULL)
    await deployment.verifier("b")
    assert await ids_of(deployment.generate()) == answer(SEED, DEFAULT_MAX_TOKENS)
    assert len(full.requests) == 1
    assert len(deployment.router.backend.roster.available()) == 2  # full isn't lost


async def test_all_being_full_each_is_asked_once_and_the_client_told_at_once(deploy: Deploy) -> None:
    deployment = await deploy(failover_wait_s=60.0)
    verifiers = [await deployment.verifier(name, refusal=FULL) for name in "abc"]
    async with asyncio.timeout(DEADLINE_S):
        error = await refusal(deployment)
    assert (error.reason, error.message, error.field, error.value) == (Reason.OVERLOADED, FULL.message, "queue", "64")
    assert error.retry_after_s == 1.0  # as they say: nothing else is known yet
    assert [len(one.requests) for one in verifiers] == [1, 1, 1]


async def full_with_running(
    deploy: Deploy, **settings: Any
) -> tuple[Deployment, FakeVerifier, list[asyncio.Task[Any]]]:
    """A verifier that runs two requests and takes no more; those before stayed 8 seconds."""
    deployment = await deploy(**settings)
    verifier = await deployment.verifier("a", stop_at=3)
    running = [asyncio.create_task(ids_of(deployment.generate(seed=seed))) for seed in range(2)]
    await eventually(lambda: len(verifier.requests) == 2 and verifier.num_yielded == 6)
    turnover = deployment.router.backend.roster._turnovers["m"]
    turnover.came()
    turnover.left(8.0)
    verifier.refusal = FULL
    return deployment, verifier, running


async def test_when_to_come_back_follows_from_how_long_requests_stay_and_how_many_were_told(deploy: Deploy) -> None:
    deployment, verifier, running = await full_with_running(deploy)
    hints = [(await refusal(deployment)).retry_after_s for _ in range(3)]
    assert hints == pytest.approx([4.0, 8.0, 12.0])
    verifier.resume.set()
    assert await asyncio.gather(*running) == [answer(seed, DEFAULT_MAX_TOKENS) for seed in range(2)]


async def test_over_http_it_is_a_429_with_retry_after(deploy: Deploy) -> None:
    deployment, verifier, running = await full_with_running(deploy, http="127.0.0.1:0")
    body = json.dumps({"model": "m", "messages": MESSAGES}).encode()
    reply = await asked(deployment, "POST", "/v1/chat/completions", body)
    assert (reply.status, reply.error["code"], reply.headers["retry-after"]) == (429, "overloaded", "4")
    verifier.resume.set()
    await asyncio.gather(*running)


async def test_the_router_s_own_bound_says_when_to_come_back_too(deploy: Deploy) -> None:
    deployment = await deploy(max_requests=1)
    verifier = await deployment.verifier("a")
    await ids_of(deployment.generate())
    await eventually(lambda: deployment.router.admission.num_active == 0)
    verifier.stop_at = 3
    running = asyncio.create_task(ids_of(deployment.generate()))
    await verifier.stopped.wait()
    hint = (await refusal(deployment)).retry_after_s
    assert hint is not None
    assert SHORTEST_S <= hint <= LONGEST_S
    verifier.resume.set()
    assert await running == answer(SEED, DEFAULT_MAX_TOKENS)


async def test_an_answer_that_has_begun_waits_for_room_and_goes_on(deploy: Deploy) -> None:
    deployment = await deploy()
    lost = await deployment.verifier("a", fail_at=10)
    full = await deployment.verifier("b", refusal=FULL, refuse_times=2)
    assert await ids_of(deployment.generate()) == answer(SEED, DEFAULT_MAX_TOKENS)
    assert len(lost.requests) == 1
    assert len(full.requests) == 3


async def test_and_is_given_up_when_there_is_none_for_too_long(deploy: Deploy) -> None:
    deployment = await deploy(failover_wait_s=1.0)
    await deployment.verifier("a", fail_at=10)
    await deployment.verifier("b", refusal=FULL)
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ids_of(deployment.generate())
    error = from_rpc_error(caught.value)
    assert error is not None
    assert error.reason is Reason.VERIFIER_LOST
    assert error.retry_after_s
