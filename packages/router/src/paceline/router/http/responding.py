"""From an answer to a response: errors in time for a status, streams that end with their reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from typing import TypeVar

import structlog
from fastapi import Request, Response
from sse_starlette import EventSourceResponse
from starlette.types import Receive, Scope, Send

from paceline.router.failures import VerifierError
from paceline.router.http.answer import Answer
from paceline.router.http.errors import CLIENT_CLOSED_REQUEST, INTERNAL, Failure, failure_of
from paceline.wire.errors import PacelineError

log = structlog.get_logger()
T = TypeVar("T")

PING_S = 15.0
SEND_TIMEOUT_S = 60.0
"""A reader that takes nothing for so long is gone, and its place is free."""


class _Gone(Exception):
    """The client closed the connection."""


async def respond(
    request: Request, answer: Answer, stream: bool, request_id: str, send_timeout_s: float = SEND_TIMEOUT_S
) -> Response:
    """The response to a request. Refusals come as PacelineError and VerifierError while there still is a status to be
    chosen; after that as the last event of the stream."""
    headers = {"x-request-id": request_id}
    try:
        if not stream:
            body = await _unless_gone(request, answer.whole())
            return Response(body.model_dump_json(exclude_unset=True), 200, headers, "application/json")
        parts = answer.parts()
        try:
            first = await _unless_gone(request, anext(parts))
        except BaseException:
            await parts.aclose()
            raise
        return _Stream(first, parts, headers, send_timeout_s)
    except _Gone:
        return Failure(CLIENT_CLOSED_REQUEST, "the client closed the connection", code="cancelled").to_response()


async def _unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result, unless the client leaves before it is there; then the work is cancelled and _Gone raised."""
    working = asyncio.ensure_future(_awaited(work))
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise _Gone
        return await working
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _awaited(work: Awaitable[T]) -> T:
    return await work


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _Stream(EventSourceResponse):
    """Server-sent events. The next part is made when the one before has been sent, so a slow reader holds the verifier
    back and nothing piles up here; and however the response ends, its parts are closed with it."""

    def __init__(self, first: str, parts: AsyncGenerator[str], headers: dict[str, str], send_timeout_s: float) -> None:
        self._parts = parts
        super().__init__(_events(first, parts), headers=headers, ping=PING_S, sep="\n", send_timeout=send_timeout_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._parts):
            await super().__call__(scope, receive, send)


async def _events(first: str, parts: AsyncGenerator[str]) -> AsyncGenerator[bytes]:
    yield _event(first)
    try:
        async for part in parts:
            yield _event(part)
    except (PacelineError, VerifierError) as error:
        yield _event(failure_of(error).to_json())
    except Exception:
        log.exception("unforeseen error in a stream")
        yield _event(INTERNAL.to_json())


def _event(data: str) -> bytes:
    return b"data: " + data.encode() + b"\n\n"
