"""Who may call: a guard that every call but health checks must pass, and the simplest one, a token that all share."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from typing import Any, Protocol

import grpc
import grpc.aio

from paceline.wire.errors import PacelineError, Reason
from paceline.wire.interceptors import refusing

SCHEME = "bearer"
NO_TOKEN = "metadata 'authorization' must be 'Bearer ' and the right token"
_ANY: Any = grpc.stream_stream_rpc_method_handler(
    lambda _requests, _context: None
)  # for methods that don't exist: who asks for them must be known too


class Guard(Protocol):
    """Decides who may call what."""

    def check(self, method: str, token: str | None) -> None:
        """Returns if the call is allowed.

        Args:
            method: "/paceline.v1.Router/Generate"; it need not exist.
            token: that the caller showed, None if it showed none.

        Raises:
            PacelineError: UNAUTHENTICATED or PERMISSION_DENIED. Its message must not have the token in it.
        """
        ...


class SharedToken:
    """A guard for deployments in which everybody has the same token and may do everything."""

    def __init__(self, token: str) -> None:
        self._expected = token.encode()

    def check(self, method: str, token: str | None) -> None:
        if token is None or not hmac.compare_digest(token.encode(errors="replace"), self._expected):
            raise PacelineError(Reason.UNAUTHENTICATED, NO_TOKEN, field="authorization")


def bearer_of(authorization: str | bytes | None) -> str | None:
    """The token in the value of an authorization header or metadata entry; None if there is none in it."""
    if authorization is None:
        return None
    text = authorization.decode("latin-1") if isinstance(authorization, bytes) else authorization
    scheme, _, token = text.partition(" ")
    return token if token and scheme.lower() == SCHEME else None


def bearer_in(metadata: Iterable[tuple[str, str | bytes]] | None) -> str | None:
    """The same of a call's metadata."""
    return bearer_of(next((value for key, value in metadata or () if key == "authorization"), None))


class GuardInterceptor(grpc.aio.ServerInterceptor):
    """Refuses every call that the guard doesn't allow, health checks excepted (a probe has no secrets).

    Args:
        guard: decides.
        open_service: full name of the service that anybody may call.
    """

    def __init__(self, guard: Guard, open_service: str) -> None:
        self._guard = guard
        self._open = f"/{open_service}/"

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(details)
        if details.method.startswith(self._open):
            return handler
        try:
            self._guard.check(details.method, bearer_in(details.invocation_metadata))
        except PacelineError as error:
            return refusing(handler or _ANY, error)
        return handler
