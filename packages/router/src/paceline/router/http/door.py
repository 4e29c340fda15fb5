"""The HTTP server: in the router's process and event loop, for as long as the router runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import structlog
import uvicorn

from paceline.router.access.access import Access
from paceline.router.http.app import make_app
from paceline.router.http.gate import Gate
from paceline.router.http.limits import BODY_TIMEOUT_S, Limits
from paceline.router.http.protocol import Protocol
from paceline.router.http.responding import SEND_TIMEOUT_S
from paceline.router.intake import Intake
from paceline.wire.settings import ServiceSettings, StartupError
from paceline.wire.tls import ListeningTls, listening_tls

log = structlog.get_logger()

MAX_HEADER_BYTES = 64 * 1024
KEEP_ALIVE_S = 75
LAST_WORDS_S = 1
BACKLOG = 1024
SEND_BUFFER_BYTES = 256 * 1024  # of each connection, in the kernel; left alone it grows to megabytes


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the process has its own, and ends this in order."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


class Door:
    """Answers HTTP at an address.

    Args:
        listen: host:port; port 0 takes a free one.
        settings: TLS, as for gRPC.
        intake: takes requests.
        access: says who may ask.
        send_timeout_s, body_timeout_s: how long a client may be in reading, and in writing a body.
        page: whether it serves the live page, too.

    Attributes:
        address: the bound host:port.
    """

    def __init__(
        self,
        listen: str,
        settings: ServiceSettings,
        intake: Intake,
        access: Access,
        send_timeout_s: float = SEND_TIMEOUT_S,
        body_timeout_s: float = BODY_TIMEOUT_S,
        page: bool = True,
    ) -> None:
        self._listen = listen
        self._settings = settings
        metrics = intake.backend.metrics
        app = make_app(intake, metrics.registry, send_timeout_s=send_timeout_s, page=page)
        self._app = Limits(Gate(app, access), metrics.responded, body_timeout_s)
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self.address = ""

    async def open(self) -> None:
        """Listens and serves. Raises StartupError: not an address, a port in use, certificates that can't be read."""
        tls = listening_tls(self._settings)
        bound = self._bound()
        # What uvicorn and sse-starlette would log has paths and, at their lowest level, answers in it.
        logging.getLogger("sse_starlette").setLevel(logging.WARNING)
        config = uvicorn.Config(
            self._app,
            http=Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=BACKLOG,
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=LAST_WORDS_S,
            **_uvicorn_tls(tls),
        )
        try:
            config.load()
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            bound.close()
            raise StartupError(f"can't serve HTTP with --tls-cert and --tls-key: {error}") from error
        self._server = _Server(config)
        self._serving = asyncio.create_task(self._server.serve([bound]), name="http")
        listening = asyncio.create_task(self._server.listening.wait())
        await asyncio.wait({self._serving, listening}, return_when=asyncio.FIRST_COMPLETED)
        listening.cancel()
        if self._serving.done():
            await self._serving
        log.info("http", address=self.address, tls=config.is_ssl)

    async def close(self) -> None:
        """Ends what still runs after a moment for last words. Again is harmless."""
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await self._serving
            await asyncio.gather(*self._server.server_state.tasks, return_exceptions=True)

    def _bound(self) -> socket.socket:
        host, _, port = self._listen.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            raise StartupError(f"--http is {self._listen!r}; it must be host:port with a port up to 65535")
        name = host.removeprefix("[").removesuffix("]")
        try:
            family = socket.getaddrinfo(name, int(port), type=socket.SOCK_STREAM)[0][0]
            bound = socket.create_server((name, int(port)), family=family, backlog=BACKLOG)
        except OSError as error:
            raise StartupError(
                f"can't listen on {self._listen} for HTTP: {error.strerror}; choose another with --http host:port "
                "(port 0 takes a free one)"
            ) from error
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self.address = f"{host}:{bound.getsockname()[1]}"
        return bound


def _uvicorn_tls(tls: ListeningTls | None) -> dict[str, Any]:
    if tls is None:
        return {}
    asked = {} if tls.client_ca is None else {"ssl_ca_certs": tls.client_ca, "ssl_cert_reqs": ssl.CERT_REQUIRED}
    return {"ssl_certfile": tls.certificate, "ssl_keyfile": tls.key, **asked}
