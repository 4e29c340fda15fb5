"""Two routers on one Redis, two verifiers, three drafters, as processes of which any may be killed and comes back.

Everybody is announced to both routers, and each process returns to the address that it had.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio
from redis_server import RedisServer

from paceline.cli.stack import Service, Stack
from paceline.router.evidence import Evidence
from paceline.router.policies import POLICIES
from paceline.router.policies.base import PolicyOptions
from paceline.router.state.base import StoreError
from paceline.router.state.redis import RedisStore
from paceline.v1 import router_pb2, router_pb2_grpc, verifier_pb2, verifier_pb2_grpc

MODEL = "tiny"
ROUTERS = ("router-1", "router-2")
VERIFIERS = ("verifier-1", "verifier-2")
# Two of a kind under two names, so that killing one leaves the router others to choose.
DRAFTERS = {"suffix": "suffix", "recycling": "recycling", "suffix-2": "suffix"}
DEADLINE_S = 120.0
POLL_S = 0.02
CALL_S = 10.0


@dataclass
class Fleet:
    """The deployment.

    Args:
        stack: of the processes.
        redis: what the routers share.
        model: folder of the target.
        policy: of the routers.
    """

    stack: Stack
    redis: RedisServer
    model: Path
    policy: str = "linucb"
    addresses: dict[str, tuple[str, str]] = field(default_factory=dict)  # once a process has one: gRPC, HTTP

    def grpc(self, name: str) -> str:
        return self.addresses[name][0]

    def http(self, router: str) -> str:
        return self.addresses[router][1]

    def start(self, name: str) -> None:
        """Starts a process, at its former address if it had one; doesn't wait."""
        listen, http = self.addresses.get(name, ("127.0.0.1:0", "127.0.0.1:0"))
        if name in ROUTERS:
            shared = ("--state", self.redis.url, "--policy", self.policy)
            self.stack.start(name, "router", "--listen", listen, "--http", http, *shared)
            return
        announce = ("--router", ",".join(map(self.grpc, ROUTERS)))
        if name in VERIFIERS:
            # One comes back as who it was, the other under another id: both happen.
            known_as = ("--verifier-id", name) if name == VERIFIERS[0] else ()
            model = ("--model", str(self.model), "--model-name", MODEL, "--drafting", "always")
            # One alone has room for all that runs. And a second thread would only wait for a core that others have.
            room = ("--max-sessions", "16", "--threads", "1")
            self.stack.start(name, "verifier", "--listen", listen, *model, *room, *known_as, *announce)
        else:
            self.stack.start(name, "drafter", "--name", name, "--strategies", DRAFTERS[name], *announce)

    async def serving(self, *names: str) -> None:
        """Until these processes say so."""
        await asyncio.to_thread(self.stack.wait, *names)
        for name in names:
            self.addresses[name] = self.stack.services[name].address, self.stack.services[name].http

    def service(self, name: str) -> Service:
        return self.stack.services[name]

    async def start_all(self) -> None:
        for name in ROUTERS:
            self.start(name)
        await self.serving(*ROUTERS)
        for name in (*VERIFIERS, *DRAFTERS):
            self.start(name)
        await self.serving(*VERIFIERS, *DRAFTERS)
        await self.whole()

    # What is asked of the processes

    async def status(self, router: str) -> router_pb2.GetStatusResponse:
        async with grpc.aio.insecure_channel(self.grpc(router)) as channel:
            return await router_pb2_grpc.RouterStub(channel).GetStatus(router_pb2.GetStatusRequest(), timeout=CALL_S)

    async def verifier(self, name: str) -> verifier_pb2.GetModelResponse:
        async with grpc.aio.insecure_channel(self.grpc(name)) as channel:
            request = verifier_pb2.GetModelRequest()
            return await verifier_pb2_grpc.VerifierStub(channel).GetModel(request, timeout=CALL_S)

    async def evidence(self) -> Evidence | None:
        """What Redis has of the model; None if nothing, or no Redis."""
        store = RedisStore(self.redis.url)
        try:
            return (await store.open(POLICIES[self.policy](PolicyOptions()).shape, {})).get(MODEL)
        except StoreError:
            return None
        finally:
            await store.close()

    async def busy(self) -> int:
        """Requests that somebody holds a place for, at any router or verifier."""
        routers = [await self.status(name) for name in ROUTERS]
        verifiers = [await self.verifier(name) for name in VERIFIERS]
        held = sum(one.active_sessions + one.queued_sessions for one in verifiers)
        return held + sum(one.active_requests for one in routers)

    # Waiting

    async def whole(self) -> None:
        """Until each router knows both verifiers, as they are now, with all drafters connected."""
        await until(self._is_whole, "a deployment in which everybody knows everybody")

    async def _is_whole(self) -> bool:
        try:
            verifiers = [await self.verifier(name) for name in VERIFIERS]
            if not all({link.name for link in one.drafters} >= DRAFTERS.keys() for one in verifiers):
                return False
            return all([self._knows(await self.status(name), verifiers) for name in ROUTERS])
        except grpc.aio.AioRpcError:
            return False

    def _knows(self, status: router_pb2.GetStatusResponse, verifiers: list[verifier_pb2.GetModelResponse]) -> bool:
        known = {member.id: member for member in status.members}
        for verifier in verifiers:
            if verifier.verifier_id not in known:
                return False
            connected = known[verifier.verifier_id].connected
            if not {known[one].name for one in connected if one in known} >= DRAFTERS.keys():
                return False
        return True

    async def idle(self) -> None:
        """Until nobody holds a place for any request."""

        async def none_left() -> bool:
            return await self.busy() == 0

        await until(none_left, "a deployment in which all places are free")


async def until(condition: Callable[[], Awaitable[bool]], what: str, timeout_s: float = DEADLINE_S) -> None:
    """Raises AssertionError when it takes too long."""
    deadline_s = time.monotonic() + timeout_s
    while not await condition():
        assert time.monotonic() < deadline_s, f"{what}: not within {timeout_s:g} s"
        await asyncio.sleep(POLL_S)


@contextmanager
def fleet_in(folder: Path, model: Path, policy: str = "linucb") -> Iterator[Fleet]:
    """A deployment that was not started yet, but for its Redis, which keeps what it confirmed."""
    with Stack(folder) as stack:
        redis = RedisServer(folder, durable=True)
        try:
            redis.start()
            yield Fleet(stack, redis, model, policy)
        finally:
            redis.stop()


def forget(redis: RedisServer) -> None:
    """Takes from a Redis that isn't running what it kept."""
    shutil.rmtree(redis.folder / "appendonlydir", ignore_errors=True)
