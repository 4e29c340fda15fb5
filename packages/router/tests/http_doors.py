"""Routers with an HTTP door, and clients that speak to it byte by byte."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import openai
from conftest import Deployment

MESSAGES: Any = [{"role": "user", "content": "a prompt"}]


def address_of(deployment: Deployment) -> tuple[str, int]:
    assert deployment.router.door is not None
    host, _, port = deployment.router.door.address.rpartition(":")
    return host, int(port)


@asynccontextmanager
async def client_of(deployment: Deployment, **options: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's own client; it would repeat what is refused for now, so it is told not to."""
    host, port = address_of(deployment)
    async with openai.AsyncOpenAI(
        base_url=f"http://{host}:{port}/v1", **{"api_key": "unused", "max_retries": 0, "timeout": 20.0, **options}
    ) as client:
        yield client


@dataclass
class Reply:
    """A response as it came."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        assert self.headers["content-type"] == "application/json"
        assert set(self.json) == {"error"}
        assert set(self.json["error"]) == {"message", "type", "param", "code"}
        detail: dict[str, Any] = self.json["error"]
        return detail


def request_bytes(method: str, path: str, body: bytes | None = None, **headers: str) -> bytes:
    """One request that ends its connection."""
    given = {"host": "test", "connection": "close", **{key.replace("_", "-"): value for key, value in headers.items()}}
    if body is not None:
        given = {"content-type": "application/json", "content-length": str(len(body)), **given}
    lines = [f"{method} {path} HTTP/1.1", *(f"{key}: {value}" for key, value in given.items()), "", ""]
    return "\r\n".join(lines).encode() + (body or b"")


def chat_bytes(**fields: Any) -> bytes:
    body = json.dumps({"model": "m", "messages": MESSAGES, "seed": 7, **fields}).encode()
    return request_bytes("POST", "/v1/chat/completions", body)


async def said(deployment: Deployment, data: bytes) -> Reply:
    """Writes these bytes and reads until the server closes."""
    reader, writer = await asyncio.open_connection(*address_of(deployment))
    try:
        writer.write(data)
        return reply_of(await reader.read())
    finally:
        writer.close()


async def asked(deployment: Deployment, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
    return await said(deployment, request_bytes(method, path, body, **headers))


def reply_of(data: bytes) -> Reply:
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {key.lower(): value for key, _, value in (line.partition(": ") for line in lines)}
    return Reply(int(first.split()[1]), headers, body)
