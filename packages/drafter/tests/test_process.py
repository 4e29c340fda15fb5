"""The fleet of links, and the drafter as a process: started, found through a router, checked, stopped."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from paceline.drafter.fleet import MAX_VERIFIERS, Fleet
from paceline.v1 import router_pb2, router_pb2_grpc
from paceline.wire.version import make_peer

DEADLINE_S = 30.0


class FakeLink:
    def __init__(self, address: str) -> None:
        self.address = address
        self.closed = asyncio.Event()
        self.is_running = False

    async def run(self) -> None:
        self.is_running = True
        if self.address == "fails":
            raise RuntimeError("a link that fails takes no other with it")
        await self.closed.wait()
        self.is_running = False

    async def close(self) -> None:
        self.closed.set()


def make_fleet(*fixed: str) -> tuple[Fleet, dict[str, FakeLink]]:
    links: dict[str, FakeLink] = {}

    def new_link(address: str) -> FakeLink:
        links[address] = FakeLink(address)
        return links[address]

    return Fleet(fixed, new_link), links


async def test_links_follow_the_roster_and_fixed_ones_stay(eventually: Any) -> None:
    fleet, links = make_fleet("fixed")
    fleet.update(())
    fleet.update(["a", "b", "", "a", "fixed"])
    assert sorted(fleet.addresses) == ["a", "b", "fixed"]
    await eventually(lambda: all(link.is_running for link in links.values()))
    a, b = links["a"], links["b"]
    fleet.update(["b"])
    assert sorted(fleet.addresses) == ["b", "fixed"]
    await eventually(lambda: not a.is_running)
    assert links["b"] is b
    assert b.is_running
    fleet.update(["a", "b"])
    assert links["a"] is not a, "who comes back gets a new link"
    await eventually(lambda: links["a"].is_running)
    await fleet.close()
    assert not any(link.is_running for link in links.values())
    assert fleet.addresses == []


async def test_a_link_that_fails_takes_no_other_with_it(eventually: Any) -> None:
    fleet, links = make_fleet("fails", "fine")
    fleet.update(())
    await eventually(lambda: links["fine"].is_running)
    await fleet.close()


async def test_the_number_of_verifiers_is_bounded() -> None:
    fleet, _ = make_fleet("fixed")
    fleet.update(f"v{index}" for index in range(MAX_VERIFIERS + 50))
    assert len(fleet.addresses) == MAX_VERIFIERS
    assert "fixed" in fleet.addresses
    await fleet.close()


@dataclass
class FakeRegistry(router_pb2_grpc.RegistryServicer):
    """Answers announcements with a roster; remembers who announced and who withdrew."""

    verifiers: list[router_pb2.Member]
    announced: list[router_pb2.Member] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)

    async def Announce(self, request: Any, context: Any) -> router_pb2.AnnounceResponse:
        self.announced.append(request.member)
        peer = make_peer("fake-router", "0")
        return router_pb2.AnnounceResponse(peer=peer, lease_s=0.3, verifiers=self.verifiers)

    async def Withdraw(self, request: Any, context: Any) -> router_pb2.WithdrawResponse:
        self.withdrawn.append(request.id)
        return router_pb2.WithdrawResponse()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        server = grpc.aio.server()
        router_pb2_grpc.add_RegistryServicer_to_server(self, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            await server.stop(None)


async def start_drafter(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "paceline.drafter", *arguments, stderr=asyncio.subprocess.PIPE
    )


@asynccontextmanager
async def drafter(tmp_path: Path, *arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A running drafter, and the address of its control port."""
    ready = tmp_path / "ready"
    process = await start_drafter("serve", "--ready-file", str(ready), *arguments)
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not ready.exists():
                assert process.returncode is None, "the drafter has ended"
                await asyncio.sleep(0.02)
        yield process, json.loads(ready.read_text())["address"]
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_drafter_process_drafts_is_healthy_and_stops_cleanly(
    number: signal.Signals, tmp_path: Path, start_verifier: Any
) -> None:
    verifier = await start_verifier()
    async with drafter(tmp_path, "--verifiers", verifier.address, "--name", "n") as (process, address):
        stream = await verifier.stream()
        stream.open(1, [1, 2, 3, 1, 2])
        assert 3 in (await stream.draft()).tokens
        async with grpc.aio.insecure_channel(address) as channel:
            health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        started = time.monotonic()
        process.send_signal(number)
        async with asyncio.timeout(DEADLINE_S):
            assert await process.wait() == 0
        assert time.monotonic() - started < 3.0
        goodbye = await stream.next()
        assert goodbye is not None
        assert goodbye.WhichOneof("message") == "goodbye"


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="SCHED_IDLE is Linux's")
async def test_all_threads_of_a_drafter_that_gives_way_compute_only_when_nobody_else_wants_to(
    tmp_path: Path, start_verifier: Any
) -> None:
    verifier = await start_verifier()
    async with drafter(tmp_path, "--verifiers", verifier.address, "--give-way") as (process, _):
        stream = await verifier.stream()
        stream.open(1, [1, 2, 3, 1, 2])
        assert 3 in (await stream.draft()).tokens
        threads = [int(name) for name in os.listdir(f"/proc/{process.pid}/task")]
        assert threads
        assert {os.sched_getscheduler(thread) for thread in threads} == {os.SCHED_IDLE}


async def test_a_drafter_finds_verifiers_through_a_router_and_withdraws(
    tmp_path: Path, start_verifier: Any, eventually: Any
) -> None:
    verifier = await start_verifier()
    roster = [
        router_pb2.Member(id="v", role=router_pb2.ROLE_VERIFIER, address=verifier.address),
        router_pb2.Member(id="t", role=router_pb2.ROLE_TRAINER, address="127.0.0.1:1"),
    ]
    registry = FakeRegistry(roster)
    async with (
        registry.serving() as router,
        drafter(tmp_path, "--router", router, "--strategies", "suffix") as found,
    ):
        process, _ = found
        stream = await verifier.stream()
        member = registry.announced[0]
        assert (member.id, member.role) == (stream.hello.drafter_id, router_pb2.ROLE_DRAFTER)
        assert (member.name, list(member.strategies), member.address) == ("suffix", ["suffix"], "")
        assert stream.hello.commit_top_k == 0, "suffix has no use for it"
        registry.verifiers = []
        goodbye = await stream.next()
        assert goodbye is not None
        assert goodbye.WhichOneof("message") == "goodbye", "a verifier that has left the roster is let go"
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(DEADLINE_S):
            assert await process.wait() == 0
        assert registry.withdrawn == [member.id]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["serve"], 1, "--verifiers"),
        (["serve", "--verifiers", "h:1", "--strategies", "suffix,magic"], 2, "suffix, recycling"),
        (["serve", "--verifiers", "h:1", "--strategies", "suffix,suffix"], 2, "twice"),
        (["serve", "--verifiers", "h:1", "--max-nodes", "0"], 2, "--max-nodes"),
        (["serve", "--verifiers", "h:1", "--tls-ca", "nowhere.pem"], 1, "nowhere.pem"),
        (["serve", "--verifiers", "h:1", "--strategy", "causal_lm"], 1, "--model"),
        (["serve", "--verifiers", "h:1", "--strategy", "causal_lm", "--model", "nowhere.gguf"], 1, "nowhere.gguf"),
        (["serve", "--verifiers", "h:1", "--strategy", "onnx_lm", "--revision", "nowhere"], 1, "nowhere"),
        (["serve", "--verifiers", "h:1", "--strategy", "retrieval"], 1, "--datastore"),
        (["serve", "--verifiers", "h:1", "--tree", "oak"], 2, "opt_tree"),
        (["serve", "--verifiers", "h:1", "--stopping", "svip:soon"], 2, "svip"),
        (["serve", "--verifiers", "h:1", "--bridge", "golden"], 2, "string_exact"),
        (["serve", "--verifiers", "h:1", "--own"], 2, "--drafter-id"),
        (["serve", "--verifiers", "h:1", "--line", "tiny"], 2, "--trainer"),
        (["serve", "--verifiers", "h:1", "--line", "tiny", "--trainer", "h:2"], 2, "onnx_lm"),
        (
            ["serve", "--verifiers", "h:1", "--strategy", "onnx_lm", "--revision", "x", "--public-key", "no.pub"],
            1,
            "no.pub",
        ),
    ],
)
async def test_what_cannot_work_is_said_in_a_line(arguments: list[str], code: int, says: str) -> None:
    process = await start_drafter(*arguments)
    async with asyncio.timeout(DEADLINE_S):
        _, errors = await process.communicate()
    assert process.returncode == code
    assert says in errors.decode()
    assert "Traceback" not in errors.decode()
