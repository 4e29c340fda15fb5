"""The reader of streams: what it takes for an answer, for a refusal, and for a broken connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from http_stream import Refused, parts_of

OK = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: str) -> bytes:
    return f"{len(data.encode()):x}\r\n".encode() + data.encode() + b"\r\n"


@asynccontextmanager
async def server_that_says(*pieces: bytes) -> AsyncIterator[str]:
    """Reads a request, writes these pieces and closes."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.decode().split("\r\n") if line.startswith("content-length"))
        await reader.readexactly(int(length.split(":")[1]))
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def read(*pieces: bytes) -> list[dict[str, Any]]:
    async with server_that_says(*pieces) as http:
        return [part async for part in parts_of(http, "/v1/completions", {"prompt": "x"})]


async def test_parts_may_be_cut_anywhere() -> None:
    first, second = chunk('data: {"a": 1}\n\ndata: {"b"'), chunk(': "ü"}\n\n: ping\n\n')
    whole = OK + first + second + chunk("data: [DONE]\n\n") + chunk("")
    for cut in range(1, len(whole) - 1, 7):
        assert await read(whole[:cut], whole[cut:]) == [{"a": 1}, {"b": "ü"}]


@pytest.mark.parametrize("said", [b"", OK[:20], OK, OK + chunk('data: {"a": 1}\n\n'), OK + b"20\r\ndata: {"])
async def test_a_connection_that_ends_in_the_middle_is_broken(said: bytes) -> None:
    with pytest.raises(ConnectionError):
        await read(said)


@pytest.mark.parametrize(
    "said",
    [
        b'HTTP/1.1 503 Service Unavailable\r\n\r\n{"error": {"message": "nobody"}}',
        OK + chunk('data: {"error": {"message": "nobody"}}\n\n') + chunk(""),
        OK + chunk('data: {"a": 1}\n\n') + chunk(""),
    ],
)
async def test_an_error_that_was_said_is_none(said: bytes) -> None:
    with pytest.raises(Refused):
        await read(said)


async def test_nobody_there() -> None:
    async with server_that_says() as http:
        pass
    with pytest.raises(ConnectionError):
        assert [part async for part in parts_of(http, "/", {})]
