"""How a Paceline service listens: health, reflection, keepalive, message limits, TLS, guard, errors, drain.

A service's `serve` command builds a `Server`, adds its servicers, and hands over to `run`: bind first (so that a port
in use is known at once), then load what takes long, then report ready; on SIGTERM or SIGINT stop taking requests, let
running ones finish, and leave. A service manager that asked to be told hears of it (`notify`).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from paceline.wire.guard import Guard, GuardInterceptor, SharedToken
from paceline.wire.interceptors import CallsInterceptor, ErrorInterceptor
from paceline.wire.notify import READY, STOPPING, manager
from paceline.wire.settings import ServiceSettings, StartupError
from paceline.wire.tls import server_credentials

log = structlog.get_logger()

HEALTH = health.SERVICE_NAME
LAST_WORDS_S = 1.0  # for what the last calls have said but not yet sent


class Server:
    """A gRPC server with the manners every Paceline service has.

    Args:
        settings: where to listen and how.
        service_names: full names of the services that will be added, for health and reflection.
        guard: who may call; None asks for `settings.token`, if that is set.
        setting: that says where to listen, for a process that does so on several ports.

    Attributes:
        address: the bound host:port.
        other_addresses: by protocol, where else the process listens; set before it is ready, for the ready file.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        service_names: Sequence[str],
        guard: Guard | None = None,
        setting: str = "listen",
    ) -> None:
        self.settings = settings
        self._listen: str = getattr(settings, setting)
        self._flag = f"--{setting}"
        self.address = ""
        self.other_addresses: dict[str, str] = {}
        self._service_names = tuple(service_names)
        self._health = health.aio.HealthServicer()
        self._calls = CallsInterceptor()
        interceptors: list[grpc.aio.ServerInterceptor] = [self._calls, ErrorInterceptor()]
        if guard is None and settings.token:
            guard = SharedToken(settings.token)
        if guard is not None:
            interceptors.insert(0, GuardInterceptor(guard, HEALTH))
        self.grpc = grpc.aio.server(interceptors=interceptors, options=_server_options(settings.max_message_bytes))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc)
        names = (*self._service_names, HEALTH, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self.grpc)

    async def bind(self) -> str:
        """Starts to listen, not yet ready; returns the bound host:port. Raises StartupError, e.g. for a port in use."""
        host, _, port = self._listen.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            raise StartupError(f"{self._flag} is {self._listen!r}; it must be host:port with a port up to 65535")
        credentials = server_credentials(self.settings)
        try:
            if credentials is not None:
                bound = self.grpc.add_secure_port(self._listen, credentials)
            else:
                bound = self.grpc.add_insecure_port(self._listen)
        except RuntimeError as error:
            raise StartupError(
                f"can't listen on {self._listen}: the port is in use or the address is not this machine's; "
                f"choose another with {self._flag} host:port (port 0 takes a free one)"
            ) from error
        self.address = f"{host}:{bound}"
        await self.set_ready(False)
        await self.grpc.start()
        return self.address

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
    told = manager()
    alive = asyncio.create_task(told.keep_alive(), name="watchdog")
    try:
        if not await _finished_before(start(), stopped):
            return 0
        await server.set_ready(True)
        _write_ready_file(server)
        told.tell(READY)
        log.info("ready", address=server.address)
        await stopped.wait()
        told.tell(STOPPING)
        log.info("stopping", drain_s=server.settings.drain_s)
        await drain()
        await server.stop()
    finally:
        await server.grpc.stop(None)
        await close()
        alive.cancel()
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
