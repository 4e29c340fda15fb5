"""The door of a real router process: TLS, what is wrong at start, and its end."""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import grpc.aio
import pytest
from announcing import announce
from certificates import Authority
from conftest import Deploy, FakeVerifier
from http_doors import MESSAGES, chat_bytes, reply_of
from router_process import START_S, Start, routers

from paceline.router.http import door as door_module
from paceline.router.settings import RouterSettings
from paceline.v1 import router_pb2_grpc
from paceline.wire.settings import StartupError

HTTP = ("--state", "memory:", "--http", "127.0.0.1:0")


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as entered:
        yield entered


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with routers(tmp_path) as begin:
        yield lambda *flags: begin(*HTTP, *flags)


async def said(address: str, data: bytes, context: ssl.SSLContext | None = None) -> bytes:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    writer.write(data)
    answered = await reader.read()
    writer.close()
    return answered


async def test_a_stream_ends_in_order_on_sigterm(start: Start, stack: AsyncExitStack) -> None:
    verifier = await FakeVerifier("v", stop_at=3).start()
    stack.push_async_callback(verifier.kill)
    process = start()
    addresses = await process.ready()
    assert set(addresses) == {"address", "pid", "http", "admin"}
    async with grpc.aio.insecure_channel(addresses["address"]) as channel:
        await announce(router_pb2_grpc.RegistryStub(channel), verifier, protocol_minor=3)
    host, _, port = addresses["http"].rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(chat_bytes(stream=True, max_tokens=5, logprobs=True))
    await verifier.stopped.wait()
    process.process.send_signal(signal.SIGTERM)
    while b" 503 " not in await said(addresses["http"], chat_bytes()):
        await asyncio.sleep(0.02)
    verifier.resume.set()
    assert b"data: [DONE]" in await reader.read()
    writer.close()
    code, errors = await process.end()
    assert code == 0
    assert "Traceback" not in errors
    assert MESSAGES[0]["content"] not in errors


async def test_tls_is_that_of_the_router(start: Start, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    own = authority.pair("router")
    process = start("--tls-cert", str(own.certificate), "--tls-key", str(own.key))
    address = (await process.ready())["http"]
    context = ssl.create_default_context(cafile=authority.certificate)
    assert reply_of(await said(address, chat_bytes(), context)).status == 503  # no verifier
    assert b"200 OK" not in await said(address, b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    code, errors = await process.end()
    assert code == 0
    assert "Traceback" not in errors


@pytest.mark.parametrize("listen", ["8000", "nowhere", "127.0.0.1:70000", "no.such.host.invalid:80"])
async def test_an_address_that_is_none(deploy: Deploy, listen: str) -> None:
    with pytest.raises(StartupError, match="--http"):
        await deploy(http=listen)


async def test_a_port_in_use(deploy: Deploy) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    with taken, pytest.raises(StartupError, match="choose another with --http"):
        await deploy(http=f"127.0.0.1:{taken.getsockname()[1]}")


async def test_a_certificate_that_is_none(deploy: Deploy, tmp_path: Path) -> None:
    own = Authority(tmp_path, "authority").pair("router")
    key_file = tmp_path / "wrong.pem"
    key_file.write_text("no key")
    deployment = await deploy()
    settings = RouterSettings(state="memory:", tls_cert=own.certificate, tls_key=key_file)
    door = door_module.Door("127.0.0.1:0", settings, deployment.router.intake, deployment.router.lock.access)
    with pytest.raises(StartupError, match="--tls-cert"):
        await door.open()
    await door.close()


def test_without_the_packages_it_says_which_are_missing() -> None:
    program = (
        "import sys; sys.modules['uvicorn'] = None\n"
        f"sys.argv = ['paceline-router', 'serve', '--listen', '127.0.0.1:0', *{HTTP!r}]\n"
        "from paceline.router.__main__ import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, timeout=START_S, check=False)
    assert result.returncode == 1
    assert "pip install 'paceline-router[http]'" in result.stderr
    assert "Traceback" not in result.stderr


def test_without_a_door_its_packages_are_not_looked_at() -> None:
    program = "import sys, paceline.router.__main__; print({'fastapi', 'uvicorn', 'sse_starlette'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
