"""`paceline-health` says by its exit code whether a service serves, and in one line why not."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority

from paceline.wire import health
from paceline.wire.server import Server
from paceline.wire.settings import ServiceSettings

SERVICE = "paceline.v1.Router"


@asynccontextmanager
async def serving(ready: bool = True, **settings: Any) -> AsyncIterator[Server]:
    server = Server(ServiceSettings(**settings), [SERVICE])
    await server.bind()
    await server.set_ready(ready)
    try:
        yield server
    finally:
        await server.grpc.stop(None)


async def probe(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["paceline-health", *arguments])
    return await asyncio.to_thread(health.main)


async def test_a_service_that_serves_is_0_with_or_without_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(token="secret") as server:
        assert await probe(monkeypatch, server.address) == 0
        assert await probe(monkeypatch, server.address, "--service", SERVICE) == 0


async def test_one_that_loads_is_1(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    async with serving(ready=False) as server:
        assert await probe(monkeypatch, server.address) == 1
        assert f"{server.address}: NOT_SERVING" in capsys.readouterr().err
        await server.set_ready(True)
        assert await probe(monkeypatch, server.address) == 0


async def test_what_cant_be_asked_is_1_and_said_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    async with serving() as server:
        assert await probe(monkeypatch, server.address, "--service", "paceline.v1.Nobody") == 1
        assert "it knows no service 'paceline.v1.Nobody'" in capsys.readouterr().err
    assert await probe(monkeypatch, server.address) == 1
    assert "UNAVAILABLE" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        assert await probe(monkeypatch, address, "--timeout-s", "0.2") == 1
    said = capsys.readouterr().err
    assert "no answer within 0.2 s" in said
    assert said.count("\n") == 1


async def test_over_tls_the_name_in_the_certificate_may_be_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    authority = Authority(tmp_path, "authority")
    pair, client = authority.pair("service"), authority.pair("client")
    shown = {"tls_cert": pair.certificate, "tls_key": pair.key, "tls_client_ca": authority.certificate}
    async with serving(**shown) as server:
        assert await probe(monkeypatch, server.address) == 1
        assert "--tls-ca is needed" in capsys.readouterr().err
        ours = ["--tls-ca", str(authority.certificate)]
        ours += ["--tls-client-cert", str(client.certificate), "--tls-client-key", str(client.key)]
        assert await probe(monkeypatch, server.address, *ours) == 0
        localhost = server.address.replace("127.0.0.1", "localhost")  # not the certificate's name
        assert await probe(monkeypatch, localhost, *ours) == 1
        assert await probe(monkeypatch, localhost, *ours, "--name", "127.0.0.1") == 0


def test_it_loads_no_more_than_grpc() -> None:
    """A probe runs every few seconds."""
    code = "import sys, paceline.wire.health; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "grpc" in found.stdout.split()
    assert not {"numpy", "torch", "structlog.dev"} & set(found.stdout.split())
