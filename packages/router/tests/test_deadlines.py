"""Time that a client gives a request: what is left of it goes on to verifiers, and when it is up all is free again."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any

import grpc
import openai
import pytest
from conftest import DEADLINE_S, DEFAULT_MAX_TOKENS, Deploy, answer, eventually
from http_doors import MESSAGES, asked, client_of

from paceline.router.countdown import countdown, sooner

SEED = 7
TIME_IS_UP = r"the request's time was up after [0-9]+ tokens"
HTTP = {"http": "127.0.0.1:0"}
BODY = {"model": "m", "messages": MESSAGES, "seed": SEED, "max_tokens": 5}


def test_a_countdown_begins_when_it_is_made_and_the_sooner_of_two_counts() -> None:
    now_s = [10.0]
    short, long, none = (countdown(seconds, lambda: now_s[0]) for seconds in (2.0, 5.0, None))
    now_s[0] = 11.5
    assert (short(), long(), none()) == (0.5, 3.5, None)
    assert (sooner(short, long)(), sooner(long, none)(), sooner(none, none)()) == (0.5, 3.5, None)
    now_s[0] = 13.0
    assert sooner(long, short)() == -1.0


# Over gRPC


async def ids_of(call: Any) -> list[int]:
    return [token async for event in call for token in event.tokens.ids]


async def test_each_verifier_gets_what_is_left_of_the_client_s_time_and_no_more(deploy: Deploy) -> None:
    deployment = await deploy()
    first = await deployment.verifier("a", stop_at=3)
    second = await deployment.verifier("b")
    begun_s = time.monotonic()
    running = asyncio.create_task(ids_of(deployment.generate(timeout_s=20.0)))
    await first.stopped.wait()
    await asyncio.sleep(0.5)
    await first.kill()
    killed_s = time.monotonic()
    assert await running == answer(SEED, DEFAULT_MAX_TOKENS)
    (before_s,), (after_s,) = first.time_left, second.time_left
    assert before_s is not None
    assert after_s is not None
    # gRPC rounds times up to three digits, by at most one in a hundred.
    assert before_s <= 20.0 * 1.01
    assert after_s <= (20.0 - (killed_s - begun_s)) * 1.01
    assert after_s < before_s


async def test_a_request_without_a_deadline_has_none_at_the_verifier(deploy: Deploy) -> None:
    deployment = await deploy()
    verifier = await deployment.verifier("v")
    await ids_of(deployment.generate(timeout_s=None))
    assert verifier.time_left == [None]


async def test_the_router_s_bound_holds_for_those_who_set_none_or_more(deploy: Deploy) -> None:
    deployment = await deploy(max_request_s=1.0)
    verifier = await deployment.verifier("v", stop_at=3)
    for timeout_s in (None, 60.0):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ids_of(deployment.generate(timeout_s=timeout_s))
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert re.fullmatch(TIME_IS_UP, caught.value.details() or "")
    assert all(time_left is not None and time_left <= 1.01 for time_left in verifier.time_left)
    await eventually(lambda: verifier.num_ended == len(verifier.requests))
    assert deployment.router.admission.num_active == 0


async def test_it_holds_while_a_request_waits_for_a_verifier(deploy: Deploy) -> None:
    deployment = await deploy(max_request_s=1.0, failover_wait_s=60.0)
    await deployment.verifier("v", fail_at=3)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ids_of(deployment.generate(timeout_s=30.0))
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert deployment.router.admission.num_active == 0


# Over HTTP


async def test_the_header_s_time_reaches_the_verifier_and_its_end_is_a_504(deploy: Deploy) -> None:
    deployment = await deploy(**HTTP)
    verifier = await deployment.verifier("v", stop_at=3)
    body = json.dumps(BODY).encode()
    reply = await asked(deployment, "POST", "/v1/chat/completions", body, x_request_timeout_ms="1500")
    assert reply.status == 504
    assert (reply.error["code"], reply.error["type"], reply.error["param"]) == (
        "deadline_exceeded",
        "server_error",
        None,
    )
    assert re.fullmatch(TIME_IS_UP, reply.error["message"])
    (time_left,) = verifier.time_left
    assert time_left is not None
    assert time_left <= 1.5 * 1.01
    await eventually(lambda: verifier.num_ended == 1)
    assert deployment.router.admission.num_active == 0


@pytest.mark.parametrize(
    ("header_ms", "body_s", "most_s"), [("30000", 20.0, 20.0), ("20000", 30.0, 20.0), ("", 20.0, 20.0)]
)
async def test_of_header_and_body_the_sooner_counts(
    deploy: Deploy, header_ms: str, body_s: float, most_s: float
) -> None:
    deployment = await deploy(**HTTP)
    verifier = await deployment.verifier("v")
    headers = {"x-request-timeout-ms": header_ms} if header_ms else {}
    async with client_of(deployment, default_headers=headers) as client:
        extra = {"paceline": {"timeout_s": body_s}}
        await client.chat.completions.create(model="m", messages=MESSAGES, max_tokens=2, extra_body=extra)
    (time_left,) = verifier.time_left
    assert time_left is not None
    assert most_s - DEADLINE_S < time_left <= most_s * 1.01


async def test_without_either_there_is_no_deadline(deploy: Deploy) -> None:
    deployment = await deploy(**HTTP)
    verifier = await deployment.verifier("v")
    async with client_of(deployment) as client:
        await client.completions.create(model="m", prompt="x", max_tokens=2)
    assert verifier.time_left == [None]


async def test_the_clients_own_client_understands_the_end_of_its_time(deploy: Deploy) -> None:
    deployment = await deploy(**HTTP)
    await deployment.verifier("v", stop_at=0)
    async with client_of(deployment) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.completions.create(
                model="m", prompt="x", n=3, extra_body={"paceline": {"timeout_s": 0.5}}, max_tokens=2
            )
    assert caught.value.status_code == 504
    assert deployment.router.admission.num_active == 0


async def test_a_stream_that_began_ends_with_the_error(deploy: Deploy) -> None:
    deployment = await deploy(**HTTP)
    verifier = await deployment.verifier("v", stop_at=3)
    body = json.dumps({**BODY, "stream": True}).encode()
    reply = await asked(deployment, "POST", "/v1/chat/completions", body, x_request_timeout_ms="3000")
    assert reply.status == 200
    assert b'"code":"deadline_exceeded"' in reply.body
    assert b"[DONE]" not in reply.body
    await eventually(lambda: verifier.num_ended == 1)
    assert deployment.router.admission.num_active == 0


@pytest.mark.parametrize("given", ["0", "-1", "1.5", "1e3", "86400001", "9" * 30, "soon", "٣"])
async def test_a_header_that_is_no_time_is_refused(deploy: Deploy, given: str) -> None:
    deployment = await deploy(**HTTP)
    body = json.dumps(BODY).encode()
    reply = await asked(deployment, "POST", "/v1/chat/completions", body, x_request_timeout_ms=given)
    assert reply.status == 400
    assert reply.error["param"] == "x-request-timeout-ms"
    assert "from 1 to 86400000" in reply.error["message"]


@pytest.mark.parametrize("given", [0, -1, 86_401, "2", True])
async def test_a_body_s_time_has_the_same_bounds(deploy: Deploy, given: object) -> None:
    deployment = await deploy(**HTTP)
    body = json.dumps({**BODY, "paceline": {"timeout_s": given}}).encode()
    reply = await asked(deployment, "POST", "/v1/chat/completions", body)
    assert reply.status == 400
    assert reply.error["param"] == "paceline.timeout_s"
