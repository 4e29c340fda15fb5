"""Uploads over a client's stream: the first message asks, the server's headers agree, then the rest is sent.

A server may refuse a stream while its client is still writing. A grpc.aio client whose write fails for that reports
INTERNAL in place of the refusal (grpc issue 36066), so the client writes only what the server is about to read.
"""

from __future__ import annotations

from typing import Any

import grpc.aio

_AGREED = ("paceline-go-on", "1")


async def go_on(context: grpc.aio.ServicerContext) -> None:
    """The server's part: the first message is accepted."""
    await context.send_initial_metadata((_AGREED,))


async def agreed(call: Any) -> bool:
    """The client's part, between the first message and the second; False if the call is over, refused or broken."""
    if _AGREED in tuple(await call.initial_metadata()):
        return True
    await call.code()
    return False
