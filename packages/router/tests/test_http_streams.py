"""Clients that leave, that don't read, and many at once: nothing is left behind, and nobody else notices."""

from __future__ import annotations

import asyncio
import random
import socket
from contextlib import aclosing

import anyio
import pytest
from conftest import Deploy, Deployment, answer, eventually
from http_doors import address_of, chat_bytes, said

from paceline.router.http import merging
from paceline.router.http.door import Door

HTTP = {"http": "127.0.0.1:0"}
FREE_WITHIN_S = 1.0


async def free_again(deployment: Deployment) -> None:
    """All places are free within a second."""
    admission = deployment.router.admission
    async with asyncio.timeout(FREE_WITHIN_S):
        await admission.idle.wait()


async def opened(deployment: Deployment, **fields: object) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which a chat was asked for."""
    reader, writer = await asyncio.open_connection(*address_of(deployment))
    writer.write(chat_bytes(**fields))
    return reader, writer


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("n", [1, 3])
async def test_a_client_that_leaves_in_the_middle(deploy: Deploy, stream: bool, n: int) -> None:
    deployment = await deploy(**HTTP)
    verifier = await deployment.verifier("v", stop_at=3)
    reader, writer = await opened(deployment, stream=stream, n=n)
    await eventually(lambda: len(verifier.requests) == n)
    await verifier.stopped.wait()
    if stream:
        await reader.readuntil(b"data: ")
    assert deployment.router.admission.num_active == n
    writer.close()
    await free_again(deployment)
    await eventually(lambda: verifier.num_cancelled == n)


async def test_a_client_that_leaves_before_the_first_token(deploy: Deploy) -> None:
    deployment = await deploy(**HTTP)
    verifier = await deployment.verifier("v", stop_at=0)
    _, writer = await opened(deployment, stream=True)
    await verifier.stopped.wait()
    writer.close()
    await free_again(deployment)
    await eventually(lambda: verifier.num_cancelled == 1)


async def stalled(deployment: Deployment) -> socket.socket:
    """A connection with a small buffer that asks for a long stream and reads nothing."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, address_of(deployment))
    await loop.sock_sendall(client, chat_bytes(stream=True, max_tokens=200_000, logprobs=True, top_logprobs=20))
    return client


async def test_a_reader_that_takes_nothing_holds_the_verifier_back_and_nobody_else(deploy: Deploy) -> None:
    deployment = await deploy(**HTTP)
    slow = await deployment.verifier("v", capacity=8)
    client = await stalled(deployment)
    await eventually(lambda: deployment.router.admission.num_active == 1)
    sent = 0
    # Nothing moves any more when all buffers on the way are full: the kernel's, and gRPC's window of some megabytes.
    for _ in range(200):
        await asyncio.sleep(0.05)
        now = slow.num_yielded
        if now == sent > 0:
            break
        sent = now
    assert 0 < slow.num_yielded < 50_000
    assert (await said(deployment, chat_bytes(max_tokens=3))).status == 200
    assert deployment.router.admission.num_active == 1
    client.close()
    await free_again(deployment)
    await eventually(lambda: slow.num_ended == 2)


async def test_a_reader_that_takes_nothing_for_too_long_is_let_go(deploy: Deploy) -> None:
    deployment = await deploy(**HTTP)
    router = deployment.router
    router.door = Door("127.0.0.1:0", router.settings, router.intake, router.lock.access, send_timeout_s=0.2)
    await router.door.open()
    verifier = await deployment.verifier("v")
    client = await stalled(deployment)
    await eventually(lambda: deployment.router.admission.num_active == 1)
    await eventually(lambda: verifier.num_ended == 1)
    await free_again(deployment)
    client.close()


async def test_64_streams_with_random_disconnects(deploy: Deploy) -> None:
    deployment = await deploy(**HTTP)
    verifiers = [await deployment.verifier(f"v-{index}", token_s=0.004, capacity=32) for index in range(2)]
    draw = random.Random(11)
    plans = [(seed, draw.choice([None, draw.randint(1, 30)])) for seed in range(64)]

    async def one(seed: int, leaves_after: int | None) -> None:
        reader, writer = await opened(deployment, stream=True, seed=seed, max_tokens=40)
        text = b""
        if leaves_after is None:
            text = await reader.read()
            assert text.startswith(b"HTTP/1.1 200")
            assert b"data: [DONE]" in text
            assert b'"error"' not in text
            assert all(f'"content":"{token} "'.encode() in text for token in answer(seed, 40))
        else:
            for _ in range(leaves_after):
                await reader.readuntil(b"data: ")
        writer.close()

    async with asyncio.timeout(30.0):
        await asyncio.gather(*(one(*plan) for plan in plans))
    await free_again(deployment)
    leavers = sum(leaves is not None for _, leaves in plans)
    assert 10 < leavers < 60
    assert sum(len(verifier.requests) for verifier in verifiers) == 64
    assert (await said(deployment, chat_bytes(max_tokens=2))).status == 200


async def test_running_streams_end_in_order_when_the_router_stops(deploy: Deploy) -> None:
    deployment = await deploy(**HTTP, drain_s=5.0)
    verifier = await deployment.verifier("v", stop_at=3)
    reader, writer = await opened(deployment, stream=True, max_tokens=6)
    await verifier.stopped.wait()
    draining = asyncio.create_task(deployment.router.drain())
    await eventually(lambda: deployment.router.admission.draining)
    assert (await said(deployment, chat_bytes())).status == 503
    verifier.resume.set()
    await draining
    await deployment.router.close()
    assert b"data: [DONE]" in await reader.read()
    writer.close()


async def test_streams_that_do_not_end_in_time_are_cut(deploy: Deploy) -> None:
    deployment = await deploy(**HTTP, drain_s=0.1)
    verifier = await deployment.verifier("v", stop_at=3)
    reader, writer = await opened(deployment, stream=True, max_tokens=6)
    await verifier.stopped.wait()
    await deployment.router.drain()
    await deployment.router.close()
    assert b"[DONE]" not in await reader.read()
    writer.close()
    await free_again(deployment)


async def test_merged_streams_are_closed_with_the_reader_or_with_the_first_that_fails() -> None:
    closed: list[str] = []

    async def counting(name: str, fails_at: int = -1):  # type: ignore[no-untyped-def]
        try:
            for number in range(5):
                await asyncio.sleep(0)
                if number == fails_at:
                    raise ValueError(name)
                yield name, number
        finally:
            closed.append(name)

    whole = [item async for item in merging.merged([counting("a"), counting("b")])]
    for index, name in enumerate("ab"):
        assert [item for at, item in whole if at == index] == [(name, number) for number in range(5)]
    assert sorted(closed) == ["a", "b"]

    closed.clear()
    with pytest.raises(ValueError, match="b"):
        [item async for item in merging.merged([counting("a"), counting("b", fails_at=2), counting("c")])]
    assert sorted(closed) == ["a", "b", "c"]

    closed.clear()
    left = merging.merged([counting("a"), counting("b")])
    await anext(left)
    await left.aclose()
    assert sorted(closed) == ["a", "b"]


async def test_of_merged_streams_at_most_one_item_is_ahead() -> None:
    taken = {"a": 0, "b": 0}

    async def counting(name: str):  # type: ignore[no-untyped-def]
        while True:
            taken[name] += 1
            yield taken[name]

    merged = merging.merged([counting("a"), counting("b")])
    for _ in range(10):
        await anext(merged)
    for _ in range(5):
        await asyncio.sleep(0)
    assert sum(taken.values()) <= 12
    await merged.aclose()


@pytest.mark.parametrize("at_turn", range(16))
async def test_merged_streams_are_closed_however_often_their_reader_is_cancelled(at_turn: int) -> None:
    opened, closed = set[int](), set[int]()

    async def counting(index: int):  # type: ignore[no-untyped-def]
        opened.add(index)
        try:
            for number in range(1 + index):
                yield number
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            closed.add(index)

    async def cancel(scope: anyio.CancelScope) -> None:
        for _ in range(at_turn):
            await asyncio.sleep(0)
        scope.cancel()

    async with aclosing(merging.merged([counting(index) for index in range(3)])) as merged:
        with anyio.CancelScope() as scope:
            cancelling = asyncio.create_task(cancel(scope))
            async for _ in merged:
                await asyncio.sleep(0)
    await cancelling
    assert scope.cancelled_caught
    assert closed == opened
