"""A service from its first moment to SIGTERM, and what a stranger at the other end may send."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st

from paceline.v1 import drafting_pb2, generation_pb2, router_pb2, router_pb2_grpc, trainer_pb2_grpc, verifier_pb2_grpc
from paceline.wire.channel import connect
from paceline.wire.errors import DOMAIN, PacelineError, Reason
from paceline.wire.server import Server
from paceline.wire.settings import ClientSettings, ServiceSettings
from paceline.wire.status import CODES, DETAILS_KEY, encode_details, from_rpc_error

TIMEOUT_S = 30.0

SERVICE = textwrap.dedent("""
    import asyncio, sys
    from pathlib import Path
    from paceline.v1 import router_pb2, router_pb2_grpc, generation_pb2
    from paceline.wire.server import Server, run
    from paceline.wire.settings import ServiceSettings

    class Router(router_pb2_grpc.RouterServicer):
        async def Generate(self, request, context):
            yield generation_pb2.GenerateEvent(started=generation_pb2.Started(seed=1))
            while not (folder / "go").exists():
                await asyncio.sleep(0.01)
            yield generation_pb2.GenerateEvent(finished=generation_pb2.Finished())

    folder = Path(sys.argv[1])

    async def start():
        (folder / "bound").write_text(server.address)
        while not (folder / "load").exists():
            await asyncio.sleep(0.01)

    async def note(name):
        (folder / name).touch()

    async def life():
        global server
        server = Server(ServiceSettings(ready_file=folder / "ready"), ["paceline.v1.Router"])
        router_pb2_grpc.add_RouterServicer_to_server(Router(), server.grpc)
        return await run(server, start, lambda: note("drained"), lambda: note("closed"))

    sys.exit(asyncio.run(life()))
""")


async def text_of(path: Path) -> str:
    async with asyncio.timeout(TIMEOUT_S):
        while not (path.exists() and path.read_text()):  # noqa: ASYNC240 - a small local file
            await asyncio.sleep(0.01)
    return path.read_text()  # noqa: ASYNC240


async def health_of(channel: grpc.aio.Channel) -> str:
    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


async def test_a_service_is_not_serving_until_loaded_and_sigterm_lets_running_streams_finish(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", SERVICE, str(tmp_path), env=os.environ)
    try:
        address = await text_of(tmp_path / "bound")
        async with connect(address, ClientSettings()) as channel:
            assert await health_of(channel) == "NOT_SERVING"
            assert not (tmp_path / "ready").exists()
            (tmp_path / "load").touch()
            assert json.loads(await text_of(tmp_path / "ready")) == {"address": address, "pid": process.pid}
            assert await health_of(channel) == "SERVING"
            call = router_pb2_grpc.RouterStub(channel).Generate(generation_pb2.GenerateRequest())
            assert (await call.read()).started.seed == 1
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(TIMEOUT_S):
                while not (tmp_path / "drained").exists():
                    await asyncio.sleep(0.01)
            async with connect(address, ClientSettings()) as late:
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    async for _ in router_pb2_grpc.RouterStub(late).Generate(
                        generation_pb2.GenerateRequest(), timeout=TIMEOUT_S
                    ):
                        pass
                assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
                refusal = from_rpc_error(refused.value)
                assert refusal is not None
                assert refusal.reason is Reason.DRAINING
            (tmp_path / "go").touch()
            assert (await call.read()).HasField("finished")
        async with asyncio.timeout(TIMEOUT_S):
            assert await process.wait() == 0
        assert (tmp_path / "closed").exists()
    finally:
        if process.returncode is None:
            process.kill()


def test_sigterm_while_loading_ends_at_once(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", SERVICE, str(tmp_path)])
    try:
        deadline = time.monotonic() + TIMEOUT_S
        while not (tmp_path / "bound").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 0
        assert (tmp_path / "closed").exists()
        assert not (tmp_path / "ready").exists()
    finally:
        process.kill()


class Everything(router_pb2_grpc.RouterServicer, trainer_pb2_grpc.TrainerServicer, verifier_pb2_grpc.VerifierServicer):
    """Would fail loudly if anything got through."""


async def test_each_kind_of_call_needs_the_token_reflection_too() -> None:
    server = Server(ServiceSettings(token="right"), ["paceline.v1.Trainer"])
    trainer_pb2_grpc.add_TrainerServicer_to_server(Everything(), server.grpc)
    verifier_pb2_grpc.add_VerifierServicer_to_server(Everything(), server.grpc)
    router_pb2_grpc.add_RouterServicer_to_server(Everything(), server.grpc)
    await server.bind()
    try:
        for token in ("", "wrong", "righ", "right "):
            async with connect(server.address, ClientSettings(token=token)) as channel:
                listing = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
                hello = iter([drafting_pb2.DrafterMessage()])
                calls: list[Any] = [
                    router_pb2_grpc.RouterStub(channel).GetStatus(router_pb2.GetStatusRequest()),
                    trainer_pb2_grpc.TrainerStub(channel).PublishRevision(iter(())),
                    anext(aiter(verifier_pb2_grpc.VerifierStub(channel).Draft(hello))),
                    anext(aiter(reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(listing))),
                ]
                for call in calls:
                    with pytest.raises(grpc.aio.AioRpcError) as refused:
                        await call
                    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
                    refusal = from_rpc_error(refused.value)
                    assert refusal is not None
                    assert refusal.reason is Reason.UNAUTHENTICATED
    finally:
        await server.grpc.stop(None)


DENYING = textwrap.dedent("""
    import asyncio
    from paceline.v1 import verifier_pb2_grpc
    from paceline.wire.server import Server
    from paceline.wire.settings import ServiceSettings

    async def serve():
        server = Server(ServiceSettings(token="right"), [])
        verifier_pb2_grpc.add_VerifierServicer_to_server(verifier_pb2_grpc.VerifierServicer(), server.grpc)
        print(await server.bind(), flush=True)
        await server.grpc.wait_for_termination()

    asyncio.run(serve())
""")


async def test_a_client_that_writes_late_hears_why_it_was_refused(tmp_path: Path) -> None:
    """In a process of its own the server can refuse while this one's event loop stands still, just before a write."""

    def hello(delay_s: float) -> Iterator[drafting_pb2.DrafterMessage]:
        time.sleep(delay_s)
        yield drafting_pb2.DrafterMessage()

    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", DENYING, env=os.environ, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        address = (await asyncio.wait_for(process.stdout.readline(), TIMEOUT_S)).decode().strip()
        async with connect(address, ClientSettings(token="wrong")) as channel:
            stub = verifier_pb2_grpc.VerifierStub(channel)
            for attempt in range(40):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await anext(aiter(stub.Draft(hello(0.002 * (attempt % 6)))))
                assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    finally:
        process.kill()
        await process.wait()


class Stranger(grpc.RpcError):
    """An error whose trailers say anything."""

    def __init__(self, value: bytes) -> None:
        self._value = value

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        return (("other", b"x"), (DETAILS_KEY, self._value))


@given(st.binary(max_size=200))
def test_whatever_a_stranger_sends_as_details_is_read_without_harm(value: bytes) -> None:
    assert from_rpc_error(Stranger(value)) is None


def packed(info: error_details_pb2.ErrorInfo) -> bytes:
    detail = any_pb2.Any()
    detail.Pack(info)
    return status_pb2.Status(code=3, message="m", details=[detail]).SerializeToString()


@pytest.mark.parametrize(
    "value",
    [
        packed(error_details_pb2.ErrorInfo(domain="elsewhere", reason="MALFORMED")),
        packed(error_details_pb2.ErrorInfo(domain=DOMAIN, reason="OF_A_LATER_RELEASE")),
        status_pb2.Status(details=[any_pb2.Any(type_url="x", value=b"\xff")]).SerializeToString(),
        status_pb2.Status(
            details=[any_pb2.Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")]
        ).SerializeToString(),
    ],
)
def test_details_of_others_are_no_refusal_of_ours(value: bytes) -> None:
    assert from_rpc_error(Stranger(value)) is None


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_a_code_and_survives_its_encoding(reason: Reason) -> None:
    assert CODES[reason] is not grpc.StatusCode.OK
    refusal = from_rpc_error(Stranger(encode_details(PacelineError(reason, "why", retry_after_s=0.25))))
    assert refusal is not None
    assert (refusal.reason, refusal.message, refusal.retry_after_s) == (reason, "why", 0.25)
