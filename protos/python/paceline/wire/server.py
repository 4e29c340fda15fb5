"""How a Paceline service listens: health, reflection, keepalive, message limits, TLS, bearer token, errors, drain.

A service's `serve` command builds a `Server`, adds its servicers, and hands over to `run`: bind first (so that a port
in use is known at once), then load what takes long, then report ready; on SIGTERM or SIGINT stop taking requests, let
running ones finish, and leave.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from paceline.wire.errors import PacelineError, Reason
from paceline.wire.settings import ServiceSettings, StartupError
from paceline.wire.status import abort

log = structlog.get_logger()

HEALTH = health.SERVICE_NAME
FIRST_MESSAGE_S = 1.0
LAST_WORDS_S = 1.0  # for what the last calls have said but not yet sent


class Server:
    """A gRPC server with the manners every Paceline service has.

    Args:
        settings: where to listen and how.
        service_names: full names of the services that will be added, for health and reflection.

    Attributes:
        address: the bound host:port.
        other_addresses: by protocol, where else the process listens; set before it is ready, for the ready file.
    """

    def __init__(self, settings: ServiceSettings, service_names: Sequence[str]) -> None:
        self.settings = settings
        self.address = ""
        self.other_addresses: dict[str, str] = {}
        self._service_names = tuple(service_names)
        self._health = health.aio.HealthServicer()
        self._calls = _CallsInterceptor()
        interceptors: list[grpc.aio.ServerInterceptor] = [self._calls, _ErrorInterceptor()]
        if settings.token:
            interceptors.insert(0, _TokenInterceptor(settings.token))
        self.grpc = grpc.aio.server(interceptors=interceptors, options=_server_options(settings.max_message_bytes))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc)
        names = (*self._service_names, HEALTH, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self.grpc)

    async def bind(self) -> str:
        """Starts to listen, not yet ready; returns the bound host:port. Raises StartupError, e.g. for a port in use."""
        host, _, port = self.settings.listen.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            raise StartupError(f"--listen is {self.settings.listen!r}; it must be host:port with a port up to 65535")
        try:
            if self.settings.tls_cert is not None or self.settings.tls_key is not None:
                bound = self.grpc.add_secure_port(self.settings.listen, self._credentials())
            else:
                bound = self.grpc.add_insecure_port(self.settings.listen)
        except RuntimeError as error:
            raise StartupError(
                f"can't listen on {self.settings.listen}: the port is in use or the address is not this machine's; "
                "choose another with --listen host:port (port 0 takes a free one)"
            ) from error
        self.address = f"{host}:{bound}"
        await self.set_ready(False)
        await self.grpc.start()
        return self.address

    def _credentials(self) -> grpc.ServerCredentials:
        certificate, key = self.settings.tls_cert, self.settings.tls_key
        if certificate is None or key is None:
            raise StartupError("TLS needs both --tls-cert and --tls-key")
        try:
            return grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
        except OSError as error:
            raise StartupError(f"can't read {error.filename}: {error.strerror}") from error

    async def set_ready(self, ready: bool) -> None:
        """What the health service answers, for the server as a whole and for each service."""
        serving = health_pb2.HealthCheckResponse.SERVING
        status = serving if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *self._service_names):
            await self._health.set(name, status)

    @property
    def advertised(self) -> str:
        """The address that others are told."""
        return self.settings.advertise or self.address

    async def stop(self) -> None:
        """Refuses new calls with DRAINING, gives running ones `drain_s` to finish, then cancels them.

        The port stays open meanwhile: to a call that arrives while gRPC's own shutdown runs, gRPC says CANCELLED or
        UNAVAILABLE, as it happens, and neither says why.
        """
        self._calls.draining = True
        await self._health.enter_graceful_shutdown()
        await self._calls.finished(self.settings.drain_s)
        await self.grpc.stop(LAST_WORDS_S)


async def run(
    server: Server,
    start: Callable[[], Awaitable[None]],
    drain: Callable[[], Awaitable[None]],
    close: Callable[[], Awaitable[None]],
) -> int:
    """Life of a service process; returns its exit code.

    Args:
        server: with its servicers added.
        start: loads what takes long; runs after the port is bound and before health says SERVING.
        drain: called when the process is told to stop, before running requests get their time to finish.
        close: frees what start took.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await server.bind()
    try:
        if not await _finished_before(start(), stopped):
            return 0
        await server.set_ready(True)
        _write_ready_file(server)
        log.info("ready", address=server.address)
        await stopped.wait()
        log.info("stopping", drain_s=server.settings.drain_s)
        await drain()
        await server.stop()
    finally:
        await server.grpc.stop(None)
        await close()
    return 0


async def _finished_before(work: Awaitable[None], stopped: asyncio.Event) -> bool:
    working = asyncio.ensure_future(work)
    waiting = asyncio.ensure_future(stopped.wait())
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            working.cancel()
            return False
        await working
        return True
    finally:
        waiting.cancel()


def _write_ready_file(server: Server) -> None:
    """Whole or not at all: whoever waits for the file may read it as soon as it exists."""
    path = server.settings.ready_file
    if path is None:
        return
    temporary = Path(f"{path}.{os.getpid()}")
    temporary.write_text(json.dumps({"address": server.address, "pid": os.getpid(), **server.other_addresses}))
    temporary.replace(path)


def _server_options(max_message_bytes: int) -> list[tuple[str, Any]]:
    return [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.so_reuseport", 0),  # else two services could listen on one port and share its calls
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.max_metadata_size", 16 * 1024),
    ]


def _wrapped(handler: grpc.RpcMethodHandler, unary: Any, stream: Any) -> grpc.RpcMethodHandler:
    """The same handler with its function passed through `unary` or `stream`, by the kind of its response."""
    kinds = {
        (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
        (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
        (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
        (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
    }
    attribute, make = kinds[bool(handler.request_streaming), bool(handler.response_streaming)]
    inner = getattr(handler, attribute)
    wrapper = stream(inner) if handler.response_streaming else unary(inner)
    return make(
        wrapper,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


class _CallsInterceptor(grpc.aio.ServerInterceptor):
    """Counts the running calls of our services, and refuses new ones once told to."""

    def __init__(self) -> None:
        self.draining = False
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def finished(self, within_s: float) -> None:
        """Returns when no call runs, or after so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._idle.wait()

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self._running += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(details)
        if handler is None or not details.method.startswith("/paceline."):
            return handler
        if self.draining:
            message = "this service is shutting down; ask another, or this one again later"
            return _refusing(handler, PacelineError(Reason.DRAINING, message, retry_after_s=1.0))

        def unary(inner: Any) -> Any:
            async def call(request: Any, context: grpc.aio.ServicerContext) -> Any:
                with self._counted():
                    return await inner(request, context)

            return call

        def stream(inner: Any) -> Any:
            async def call(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
                responses = inner(request, context)
                with self._counted():
                    try:
                        async for response in responses:
                            yield response
                    finally:
                        await responses.aclose()

            return call

        return _wrapped(handler, unary, stream)


class _ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Turns PacelineError into its status, and anything unforeseen into INTERNAL without details of the request.

    Handlers that stream responses are asynchronous generators.
    """

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(details)
        if handler is None or not details.method.startswith("/paceline."):
            return handler

        def unary(inner: Any) -> Any:
            async def call(request: Any, context: grpc.aio.ServicerContext) -> Any:
                try:
                    return await inner(request, context)
                except PacelineError as error:
                    await abort(context, error)
                except (asyncio.CancelledError, grpc.aio.AbortError):
                    raise
                except Exception:
                    await abort(context, _unforeseen(details.method))

            return call

        def stream(inner: Any) -> Any:
            async def call(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
                responses = inner(request, context)
                try:
                    async for response in responses:
                        yield response
                except PacelineError as error:
                    await abort(context, error)
                except (asyncio.CancelledError, GeneratorExit, grpc.aio.AbortError):
                    raise
                except Exception:
                    await abort(context, _unforeseen(details.method))
                finally:
                    await responses.aclose()

            return call

        return _wrapped(handler, unary, stream)


def _unforeseen(method: str) -> PacelineError:
    log.exception("unforeseen error", method=method)
    return PacelineError(Reason.INTERNAL, f"unforeseen error in {method}; the service's log has the traceback")


async def _first_of(requests: AsyncIterator[Any]) -> None:
    """Takes the first message of a stream that is about to be refused.

    A grpc.aio client whose write fails because the refusal was faster reports INTERNAL in place of the refusal
    (grpc issue 36066). After its first write it waits for an answer and gets it.
    """
    with contextlib.suppress(TimeoutError, grpc.RpcError):
        async with asyncio.timeout(FIRST_MESSAGE_S):
            await anext(aiter(requests), None)


def _refusing(handler: grpc.RpcMethodHandler, error: PacelineError) -> grpc.RpcMethodHandler:
    """A handler of the same kind that refuses every call."""

    async def refuse(request: Any, context: grpc.aio.ServicerContext) -> Any:
        if handler.request_streaming:
            await _first_of(request)
        await abort(context, error)

    def unary(_inner: Any) -> Any:
        return refuse

    def stream(_inner: Any) -> Any:
        async def call(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            await refuse(request, context)
            yield  # pragma: no cover - makes this an asynchronous generator

        return call

    return _wrapped(handler, unary, stream)


class _TokenInterceptor(grpc.aio.ServerInterceptor):
    """Denies every call without the bearer token, health checks excepted (a probe has no secrets)."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(details)
        if handler is None or details.method.startswith(f"/{HEALTH}/") or self._allowed(details):
            return handler

        why = "metadata 'authorization' must be 'Bearer ' and the right token"
        return _refusing(handler, PacelineError(Reason.UNAUTHENTICATED, why))

    def _allowed(self, details: grpc.HandlerCallDetails) -> bool:
        for key, value in details.invocation_metadata or ():
            if key == "authorization":
                given = value if isinstance(value, bytes) else value.encode()
                return hmac.compare_digest(given, self._expected)
        return False
