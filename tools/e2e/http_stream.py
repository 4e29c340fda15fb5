"""A stream of OpenAI's API, byte by byte: a connection that broke is one thing, an error that was said another."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

DONE = "[DONE]"


class Refused(Exception):
    """The router said no, before the stream or in it."""


async def parts_of(http: str, path: str, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any]]:
    """The parts of a stream until its end was said. Close the generator to leave.

    Args:
        http: host:port.
        path: such as /v1/completions.
        body: of the request; `stream` is set.

    Raises:
        ConnectionError: the connection broke, or could not be made.
        Refused: with what was said.
    """
    host, _, port = http.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        content = json.dumps({**body, "stream": True}).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: {http}\r\ncontent-type: application/json\r\nconnection: close\r\n"
        writer.write(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
        status = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1]
        if status != b"200":
            raise Refused((await reader.read()).decode(errors="replace"))
        async for line in _lines(reader):
            if not line.startswith("data: "):
                continue
            data = line.removeprefix("data: ")
            if data == DONE:
                return
            part = json.loads(data)
            if "error" in part:
                raise Refused(data)
            yield part
        raise Refused("the stream ended in order, but for its [DONE]")
    except asyncio.IncompleteReadError as error:
        raise ConnectionError("the connection was closed in the middle") from error
    finally:
        writer.close()


async def _lines(reader: asyncio.StreamReader) -> AsyncGenerator[str]:
    """Of a chunked body."""
    rest = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        rest += (await reader.readexactly(size + 2))[:-2]
        *lines, rest = rest.split(b"\n")
        for line in lines:
            yield line.decode()
