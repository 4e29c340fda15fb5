"""Server, channel, status and membership over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from paceline.v1 import generation_pb2, router_pb2, router_pb2_grpc, types_pb2
from paceline.wire.channel import connect
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.membership import Membership
from paceline.wire.server import Server
from paceline.wire.settings import ClientSettings, ServiceSettings, StartupError
from paceline.wire.status import CODES, from_rpc_error
from paceline.wire.version import PROTOCOL_MAJOR, PROTOCOL_MINOR, check_peer, make_peer

ROUTER = "paceline.v1.Router"
REGISTRY = "paceline.v1.Registry"


class FakeRouter(router_pb2_grpc.RouterServicer, router_pb2_grpc.RegistryServicer):
    """Raises what it is told to, and remembers who announced."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.release = asyncio.Event()
        self.announced: list[str] = []
        self.withdrawn: list[str] = []

    async def GetStatus(self, request: object, context: object) -> router_pb2.GetStatusResponse:
        if self.error is not None:
            raise self.error
        return router_pb2.GetStatusResponse(policy="fake")

    async def Generate(
        self, request: generation_pb2.GenerateRequest, context: object
    ) -> AsyncIterator[generation_pb2.GenerateEvent]:
        yield generation_pb2.GenerateEvent(started=generation_pb2.Started(seed=1))
        if self.error is not None:
            raise self.error
        await self.release.wait()
        yield generation_pb2.GenerateEvent(finished=generation_pb2.Finished())

    async def Announce(self, request: router_pb2.AnnounceRequest, context: object) -> router_pb2.AnnounceResponse:
        self.announced.append(request.member.id)
        other = router_pb2.Member(id="v1", role=router_pb2.ROLE_VERIFIER)
        return router_pb2.AnnounceResponse(peer=make_peer("fake", "0"), lease_s=0.3, verifiers=[other])

    async def Withdraw(self, request: router_pb2.WithdrawRequest, context: object) -> router_pb2.WithdrawResponse:
        self.withdrawn.append(request.id)
        return router_pb2.WithdrawResponse()


@asynccontextmanager
async def serving(router: FakeRouter, **settings: object) -> AsyncIterator[Server]:
    server = Server(ServiceSettings(**settings), [ROUTER, REGISTRY])  # type: ignore[arg-type]
    router_pb2_grpc.add_RouterServicer_to_server(router, server.grpc)
    router_pb2_grpc.add_RegistryServicer_to_server(router, server.grpc)
    await server.bind()
    await server.set_ready(True)
    try:
        yield server
    finally:
        await server.grpc.stop(None)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def status_of(address: str, **settings: object) -> router_pb2.GetStatusResponse:
    async with connect(address, ClientSettings(**settings)) as channel:  # type: ignore[arg-type]
        return await router_pb2_grpc.RouterStub(channel).GetStatus(router_pb2.GetStatusRequest(), timeout=5)


@pytest.mark.parametrize("reason", list(Reason))
async def test_every_refusal_arrives_with_reason_field_value_limit_and_retry(reason: Reason) -> None:
    router = FakeRouter()
    router.error = PacelineError(reason, "why", field="f", value=3, limit="at most 2", retry_after_s=1.5)
    async with serving(router) as server, connect(server.address, ClientSettings()) as channel:
        stub = router_pb2_grpc.RouterStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as unary:
            await stub.GetStatus(router_pb2.GetStatusRequest(), timeout=5)
        with pytest.raises(grpc.aio.AioRpcError) as stream:
            async for _ in stub.Generate(generation_pb2.GenerateRequest(), timeout=5):
                pass
    for error in (unary.value, stream.value):
        assert error.code() is CODES[reason]
        refusal = from_rpc_error(error)
        assert refusal is not None
        found = (refusal.reason, refusal.message, refusal.field, refusal.value, refusal.limit, refusal.retry_after_s)
        assert found == (reason, "why", "f", "3", "at most 2", 1.5)


async def test_an_unforeseen_error_tells_the_client_nothing() -> None:
    router = FakeRouter()
    router.error = RuntimeError("the secret prompt")
    async with serving(router) as server:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await status_of(server.address)
    assert error.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in str(error.value)


async def test_health_follows_readiness_and_reflection_lists_the_services() -> None:
    async with serving(FakeRouter()) as server, connect(server.address, ClientSettings()) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for ready, expected in ((True, "SERVING"), (False, "NOT_SERVING")):
            await server.set_ready(ready)
            for name in ("", ROUTER):
                answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
                assert health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status) == expected

        async def asked() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
            yield reflection_pb2.ServerReflectionRequest(list_services="")

        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        async for answer in stub.ServerReflectionInfo(asked()):
            names = {service.name for service in answer.list_services_response.service}
        assert {ROUTER, REGISTRY, "grpc.health.v1.Health"} <= names


async def test_every_call_but_health_needs_the_token() -> None:
    async with serving(FakeRouter(), token="right") as server:
        assert (await status_of(server.address, token="right")).policy == "fake"
        for wrong in ("", "wrong"):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await status_of(server.address, token=wrong)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
            async with connect(server.address, ClientSettings(token=wrong)) as channel:
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    async for _ in router_pb2_grpc.RouterStub(channel).Generate(generation_pb2.GenerateRequest()):
                        pass
                assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
                health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
                assert health.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_stream_with_the_right_token_works() -> None:
    router = FakeRouter()
    router.release.set()
    async with (
        serving(router, token="right") as server,
        connect(server.address, ClientSettings(token="right")) as channel,
    ):
        events = [
            event async for event in router_pb2_grpc.RouterStub(channel).Generate(generation_pb2.GenerateRequest())
        ]
        assert len(events) == 2


async def test_a_port_in_use_is_said_in_one_line() -> None:
    async with serving(FakeRouter()) as server:
        with pytest.raises(StartupError, match=r"in use.*--listen") as error:
            async with serving(FakeRouter(), listen=server.address):
                pass
        assert "\n" not in str(error.value)


async def test_messages_beyond_the_limit_are_refused() -> None:
    limit = 64 * 1024
    async with (
        serving(FakeRouter(), max_message_bytes=limit) as server,
        connect(server.address, ClientSettings()) as channel,
    ):
        member = router_pb2.Member(id="x" * (limit + 1))
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await router_pb2_grpc.RegistryStub(channel).Announce(router_pb2.AnnounceRequest(member=member), timeout=5)
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_stopping_lets_a_running_stream_finish_and_refuses_new_calls() -> None:
    router = FakeRouter()
    async with serving(router) as server, connect(server.address, ClientSettings()) as channel:
        call = router_pb2_grpc.RouterStub(channel).Generate(generation_pb2.GenerateRequest(), timeout=10)
        assert (await call.read()).started.seed == 1
        stopping = asyncio.create_task(server.stop())
        await asyncio.sleep(0.1)
        with pytest.raises(grpc.aio.AioRpcError):
            await status_of(server.address)
        router.release.set()
        assert (await call.read()).HasField("finished")
        await stopping


async def test_membership_announces_renews_survives_a_restart_and_leaves() -> None:
    router = FakeRouter()
    rosters: list[list[str]] = []
    async with serving(router) as server:
        address = server.address
        membership = Membership(
            [address],
            ClientSettings(),
            lambda: router_pb2.Member(id="me", role=router_pb2.ROLE_DRAFTER),
            lambda members: rosters.append([member.id for member in members]),
        )
        membership.start()
        await until(lambda: len(router.announced) >= 3)
        assert set(router.announced) == {"me"}
        assert rosters[0] == ["v1"]
    again = FakeRouter()
    async with serving(again, listen=address):
        await until(lambda: len(again.announced) >= 1)
        await membership.leave()
        assert again.withdrawn == ["me"]


async def test_membership_outlives_a_router_of_another_protocol() -> None:
    class Stranger(FakeRouter):
        async def Announce(self, request: router_pb2.AnnounceRequest, context: object) -> router_pb2.AnnounceResponse:
            response = await super().Announce(request, context)
            response.peer.protocol_major += 1
            return response

    stranger = Stranger()
    async with serving(stranger) as server:
        address = server.address
        membership = Membership(
            [address], ClientSettings(), lambda: router_pb2.Member(id="me", role=router_pb2.ROLE_DRAFTER)
        )
        membership.start()
        await until(lambda: len(stranger.announced) >= 1)
    compatible = FakeRouter()
    async with serving(compatible, listen=address):
        await until(lambda: len(compatible.announced) >= 2)
        await membership.leave()


def test_only_the_same_major_version_is_compatible() -> None:
    check_peer(make_peer("p", "1"))
    for minor in (0, PROTOCOL_MINOR + 1):
        check_peer(types_pb2.Peer(package="p", protocol_major=PROTOCOL_MAJOR, protocol_minor=minor))
    stranger = make_peer("paceline-drafter", "9.9")
    stranger.protocol_major = PROTOCOL_MAJOR + 1
    with pytest.raises(PacelineError, match=r"paceline-drafter 9\.9 speaks protocol") as refusal:
        check_peer(stranger)
    assert refusal.value.reason is Reason.INCOMPATIBLE_VERSION
