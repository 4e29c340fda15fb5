"""Who may call: what counts as a token, and that nothing but health gets past a guard."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st

from paceline.v1 import router_pb2, router_pb2_grpc
from paceline.wire.channel import connect
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.guard import SharedToken, bearer_in, bearer_of
from paceline.wire.server import Server
from paceline.wire.settings import ClientSettings, ServiceSettings
from paceline.wire.status import from_rpc_error


@pytest.mark.parametrize(
    ("authorization", "token"),
    [
        (None, None),
        ("", None),
        ("x", None),
        ("Bearer", None),
        ("Bearer ", None),
        ("Basic x", None),
        ("Bearer x", "x"),
        ("bearer x", "x"),
        (b"Bearer x", "x"),
        ("Bearer x ", "x "),
        ("Bearer  x", " x"),
    ],
)
def test_what_is_a_token(authorization: str | bytes | None, token: str | None) -> None:
    assert bearer_of(authorization) == token


def test_it_is_found_among_other_metadata() -> None:
    assert bearer_in(None) is None
    assert bearer_in([("a", "Bearer no"), ("authorization", "Bearer yes")]) == "yes"


@given(st.text(), st.text(min_size=1))
def test_the_shared_token_is_the_only_one(shown: str, token: str) -> None:
    guard = SharedToken(token.encode("utf-8", "replace").decode())
    guard.check("/any", token.encode("utf-8", "replace").decode())
    if shown.encode("utf-8", "replace") != token.encode("utf-8", "replace"):
        with pytest.raises(PacelineError) as refused:
            guard.check("/any", shown)
        assert refused.value.reason is Reason.UNAUTHENTICATED


class Denying:
    """Remembers who asked for what."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []

    def check(self, method: str, token: str | None) -> None:
        self.asked.append((method, token))
        raise PacelineError(Reason.PERMISSION_DENIED, "not you")


async def test_a_guard_is_asked_about_methods_that_dont_exist_too() -> None:
    guard = Denying()
    server = Server(ServiceSettings(token="not asked for"), ["paceline.v1.Router"], guard)
    router_pb2_grpc.add_RouterServicer_to_server(router_pb2_grpc.RouterServicer(), server.grpc)
    await server.bind()
    try:
        async with connect(server.address, ClientSettings(token="mine")) as channel:
            unknown: Any = channel.unary_unary("/paceline.v1.Nothing/AtAll")
            calls = [unknown(b""), router_pb2_grpc.RouterStub(channel).GetStatus(router_pb2.GetStatusRequest())]
            for call in calls:
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await call
                refusal = from_rpc_error(refused.value)
                assert refusal is not None
                assert refusal.reason is Reason.PERMISSION_DENIED
            health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert health.status == health_pb2.HealthCheckResponse.NOT_SERVING
    finally:
        await server.grpc.stop(None)
    assert sorted(guard.asked) == [("/paceline.v1.Nothing/AtAll", "mine"), ("/paceline.v1.Router/GetStatus", "mine")]


async def test_a_method_that_doesnt_exist_is_unknown_only_to_those_who_may_ask() -> None:
    server = Server(ServiceSettings(token="right"), [])
    await server.bind()
    codes = []
    try:
        for token in ("right", "wrong"):
            async with connect(server.address, ClientSettings(token=token)) as channel:
                unknown: Any = channel.unary_unary("/paceline.v1.Nothing/AtAll")
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await unknown(b"")
                codes.append(refused.value.code())
    finally:
        await server.grpc.stop(None)
    assert codes == [grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAUTHENTICATED]
