"""The door's lock: nobody gets past it who may not, whatever routes there are."""

from __future__ import annotations

from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from paceline.router.access.access import Access, Caller
from paceline.router.access.rights import is_open
from paceline.router.http.errors import failure_of
from paceline.wire.errors import PacelineError
from paceline.wire.guard import bearer_of

_CALLER = "paceline.caller"


class Gate:
    """ASGI middleware: refuses before a body is read, and says who asks to whoever answers.

    Args:
        app: what it surrounds.
        access: decides.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if not is_open(path):
            try:
                token = bearer_of(Headers(scope=scope).get("authorization"))
                scope[_CALLER] = self._access.for_path(path, token)
            except PacelineError as error:
                return await failure_of(error).to_response()(scope, receive, send)
        return await self._app(scope, receive, send)


async def caller_of(request: Request) -> Caller:
    """On whose behalf a request is answered. Every route that answers prompts depends on this."""
    caller: Caller = request.scope[_CALLER]
    return caller
