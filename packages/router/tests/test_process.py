"""The real program: starts, serves, says what is wrong in one line, ends in order, and remembers."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from announcing import announce
from conftest import FakeVerifier, answer, request_of
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from redis_server import RedisServer
from router_process import START_S, Start, routers

from paceline.router.policies.linucb import LinUcb
from paceline.router.version import VERSION
from paceline.v1 import router_pb2, router_pb2_grpc


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as entered:
        yield entered


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with routers(tmp_path) as begin:
        yield begin


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "paceline.router", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=START_S, check=False)


async def arms(stub: Any) -> dict[tuple[str, ...], tuple[float, float]]:
    status = await stub.GetStatus(router_pb2.GetStatusRequest())
    return {tuple(arm.drafters): (arm.pulls, arm.mean_reward) for arm in status.arms}


async def test_it_says_that_it_serves_and_lists_its_services_and_ends_on_sigterm(start: Start) -> None:
    process = start("--state", "memory:")
    async with grpc.aio.insecure_channel((await process.ready())["address"]) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", "paceline.v1.Router", "paceline.v1.Registry"):
            response = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert response.status == health_pb2.HealthCheckResponse.SERVING
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        listed = await reflection.ServerReflectionInfo(iter([request])).read()
        names = {service.name for service in listed.list_services_response.service}
        assert {"paceline.v1.Router", "paceline.v1.Registry"} <= names
    assert (await process.end(signal.SIGTERM))[0] == 0


async def test_what_was_learnt_survives_kill_9_and_status_shows_it(
    start: Start, stack: AsyncExitStack, tmp_path: Path
) -> None:
    verifier = await FakeVerifier("v", drafters={"s-1": "suffix"}, token_s=0.005).start()
    stack.push_async_callback(verifier.kill)
    state = f"sqlite:///{tmp_path}/router.db"
    flags = ("--state", state, "--segment-tokens", "4", "--lease-s", "60")
    process = start(*flags)
    async with grpc.aio.insecure_channel((await process.ready())["address"]) as channel:
        stub = router_pb2_grpc.RouterStub(channel)
        await announce(router_pb2_grpc.RegistryStub(channel), verifier)
        for _ in range(3):
            ids = [token async for event in stub.Generate(request_of()) for token in event.tokens.ids]
            assert ids == answer(7, len(ids))
        learnt = await arms(stub)
        assert learnt[()][0] > 0
        assert learnt["suffix",][1] > 1.0
        await stored(tmp_path / "router.db", sum(pulls for pulls, _ in learnt.values()))
    assert (await process.end(signal.SIGKILL))[0] == -signal.SIGKILL

    process = start(*flags)
    address = (await process.ready())["address"]
    async with grpc.aio.insecure_channel(address) as channel:
        await announce(router_pb2_grpc.RegistryStub(channel), verifier)
        relearnt = await arms(router_pb2_grpc.RouterStub(channel))
    assert relearnt == {key: pytest.approx(value) for key, value in learnt.items()}
    shown = await asyncio.to_thread(run, "status", "--router", address)
    assert shown.returncode == 0
    assert "suffix" in shown.stdout
    as_json = await asyncio.to_thread(run, "status", "--router", address, "--json")
    told = {tuple(arm["drafters"]): arm["mean_reward"] for arm in json.loads(as_json.stdout)["arms"]}
    assert told == {key: pytest.approx(mean) for key, (_, mean) in learnt.items()}


async def test_what_a_router_learnt_is_in_redis_for_the_next(
    start: Start, stack: AsyncExitStack, tmp_path: Path
) -> None:
    server = RedisServer(tmp_path)
    stack.callback(server.stop)
    server.start()
    verifier = await FakeVerifier("v", drafters={"s-1": "suffix"}).start()
    stack.push_async_callback(verifier.kill)
    flags = ("--state", server.url, "--segment-tokens", "4", "--lease-s", "60")
    busy = start(*flags)
    async with grpc.aio.insecure_channel((await busy.ready())["address"]) as channel:
        await announce(router_pb2_grpc.RegistryStub(channel), verifier)
        stub = router_pb2_grpc.RouterStub(channel)
        ids = [token async for event in stub.Generate(request_of()) for token in event.tokens.ids]
        assert ids == answer(7, len(ids))
        learnt = await arms(stub)
    assert (await busy.end(signal.SIGTERM))[0] == 0
    quiet = start(*flags)
    async with grpc.aio.insecure_channel((await quiet.ready())["address"]) as channel:
        await announce(router_pb2_grpc.RegistryStub(channel), verifier)
        assert await arms(router_pb2_grpc.RouterStub(channel)) == {
            key: pytest.approx(value) for key, value in learnt.items()
        }
    assert learnt["suffix",][0] > 0


async def stored(path: Path, pulls: float) -> None:
    """Waits until the file has as much as the router knows; it is written in the background."""
    deadline_s = time.monotonic() + START_S
    while True:
        rows = sqlite3.connect(path).execute("SELECT at, sums FROM sums").fetchall()
        latest = max((at for at, _sums in rows), default=0)
        discount = LinUcb().shape.discount
        if abs(sum(struct.unpack("<d", sums[:8])[0] * discount ** (latest - at) for at, sums in rows) - pulls) < 1e-6:
            return
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.02)


def test_a_port_in_use_is_said_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run("serve", "--listen", f"127.0.0.1:{port}", "--state", "memory:", "--log-level", "error")
    assert ended.returncode == 1
    (line,) = ended.stderr.strip().splitlines()
    assert f"127.0.0.1:{port}" in line
    assert "--listen" in line


def test_a_state_file_that_cannot_be_used_is_said_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "router.db"
    path.mkdir()
    ended = run("serve", "--listen", "127.0.0.1:0", "--state", f"sqlite:///{path}", "--log-level", "error")
    assert ended.returncode == 1
    (line,) = ended.stderr.strip().splitlines()
    assert str(path) in line
    assert "--state" in line


def test_settings_that_make_no_sense_are_refused() -> None:
    assert run("serve", "--policy", "guess").returncode == 2
    assert run("serve", "--lease-s", "0").returncode == 2
    assert run("guess").returncode == 2


def test_a_router_that_is_not_there_is_said_in_one_line_by_status() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    ended = run("status", "--router", address)
    assert ended.returncode == 1
    (line,) = ended.stderr.strip().splitlines()
    assert address in line


def test_the_version_is_told() -> None:
    assert run("--version").stdout.strip() == f"paceline-router {VERSION}"
