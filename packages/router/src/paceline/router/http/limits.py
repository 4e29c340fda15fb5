"""What surrounds every HTTP request: a bound on its body's size and time, a count, and an answer whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog
from sse_starlette.sse import SendTimeoutError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paceline.router.http.errors import INTERNAL

log = structlog.get_logger()

MAX_BODY_BYTES = 8 * 1024 * 1024
MAX_DISCARDED_BYTES = 64 * 1024 * 1024
BODY_TIMEOUT_S = 30.0


class Limits:
    """ASGI middleware, the outermost.

    Args:
        app: what it surrounds.
        count: called with route ("other" for unknown ones) and status of each response.
        body_timeout_s: for all of a body.
    """

    def __init__(self, app: ASGIApp, count: Callable[[str, int], None], body_timeout_s: float = BODY_TIMEOUT_S) -> None:
        self._app = app
        self._count = count
        self._body_timeout_s = body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        status = 0

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._count(getattr(scope.get("route"), "path", "other"), status)
            await send(message)

        try:
            await self._app(scope, BodyReader(receive, self._body_timeout_s), counted)
        except SendTimeoutError:
            log.info("a reader took nothing any more; its stream is closed")
        except Exception:
            log.exception("unforeseen error", path=scope["path"][:200])
            if not status:
                await INTERNAL.to_response()(scope, receive, counted)


class BodyReader:
    """Receives for an application; a body that is too long, or too long in coming, is an HTTPException.

    What is over is read and thrown away for a while: a client that is still writing when the connection is closed would
    not read the answer.
    """

    def __init__(self, receive: Receive, timeout_s: float) -> None:
        self._receive = receive
        self._ends_s = asyncio.get_running_loop().time() + timeout_s
        self._num_bytes = 0
        self._complete = False

    async def __call__(self) -> Message:
        if self._complete:
            return await self._receive()
        message = await self._part()
        if self._num_bytes > MAX_BODY_BYTES:
            while not self._complete and self._num_bytes <= MAX_DISCARDED_BYTES:
                await self._part()
            raise HTTPException(413, f"the body is too large; it may have {MAX_BODY_BYTES} bytes")
        return message

    async def _part(self) -> Message:
        try:
            async with asyncio.timeout_at(self._ends_s):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, "the body did not come in time", {"Connection": "close"}) from None
        self._num_bytes += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        return message
