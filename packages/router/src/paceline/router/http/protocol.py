"""uvicorn's HTTP/1.1 with a time for headers, and with errors in the shape that all others have."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from paceline.router.http.errors import Failure

HEADERS_TIMEOUT_S = 10.0


class Protocol(H11Protocol):
    """A connection on which no request begins, or one begins and its headers don't end, is closed.

    uvicorn's own time for keeping idle connections ends with the first byte of the next request.
    """

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._answering():
            self._stop_waiting()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._expect_headers()

    def send_400_response(self, msg: str) -> None:
        """For what is no HTTP, or has too long headers."""
        body = Failure(400, msg, code="invalid_http").to_json().encode()
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _expect_headers(self) -> None:
        self._stop_waiting()
        self._late = self.loop.call_later(HEADERS_TIMEOUT_S, self._close_if_late)

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _close_if_late(self) -> None:
        self._late = None
        if not self._answering():
            self.transport.close()
