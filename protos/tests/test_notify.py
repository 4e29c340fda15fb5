"""A service manager hears when a service is ready, alive and stopping; here it is a real datagram socket."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from paceline.wire.notify import Manager, manager_in

TIMEOUT_S = 30.0

SERVICE = textwrap.dedent("""
    import asyncio, sys
    from paceline.wire.server import Server, run
    from paceline.wire.settings import ServiceSettings

    async def nothing():
        pass

    async def start():
        print("loading", flush=True)
        await asyncio.to_thread(sys.stdin.readline)

    async def life():
        return await run(Server(ServiceSettings(), []), start, nothing, nothing)

    sys.exit(asyncio.run(life()))
""")


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A socket's path may have 107 bytes, which a test's own folder may exceed."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


@contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    """As a service manager does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(TIMEOUT_S)
        receiver.bind("\0" + address[1:] if address.startswith("@") else address)
        yield receiver


def heard(receiver: socket.socket) -> str:
    return receiver.recv(4096).decode()


@pytest.mark.parametrize("abstract", [False, True])
def test_a_state_arrives_at_a_path_and_at_an_abstract_name(short_folder: Path, abstract: bool) -> None:
    address = f"@paceline-{secrets.token_hex(8)}" if abstract else str(short_folder / "notify")
    with listening(address) as receiver:
        Manager(address).tell("READY=1")
        assert heard(receiver) == "READY=1"


def test_nobody_who_listens_is_no_error(tmp_path: Path) -> None:
    Manager(str(tmp_path / "nowhere")).tell("READY=1")
    Manager().tell("READY=1")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Manager()),
        ({"NOTIFY_SOCKET": "/run/n"}, Manager("/run/n")),
        ({"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "30000000"}, Manager("@n", 30.0)),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "500000", "WATCHDOG_PID": "7"}, Manager("/run/n", 0.5)),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "500000", "WATCHDOG_PID": "8"}, Manager("/run/n")),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "-1"}, Manager("/run/n")),
        ({"NOTIFY_SOCKET": "vsock:2:1"}, Manager()),
        ({"WATCHDOG_USEC": "30000000"}, Manager()),
    ],
)
def test_the_environment_names_the_manager(environment: dict[str, str], expected: Manager) -> None:
    assert manager_in(environment, pid=7) == expected


async def test_who_expects_it_hears_again_and_again_that_the_loop_is_alive(short_folder: Path) -> None:
    address = str(short_folder / "notify")
    with listening(address) as receiver:
        alive = asyncio.create_task(Manager(address, watchdog_s=0.01).keep_alive())
        for _ in range(3):
            assert await asyncio.to_thread(heard, receiver) == "WATCHDOG=1"
        alive.cancel()
    await asyncio.wait_for(Manager(address).keep_alive(), TIMEOUT_S)  # of nobody who expects it


def test_a_service_is_ready_when_it_has_loaded_and_stopping_when_it_is_told_to(short_folder: Path) -> None:
    address = str(short_folder / "notify")
    with listening(address) as receiver:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVICE],
            env={**os.environ, "NOTIFY_SOCKET": address},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "loading\n"
            receiver.setblocking(False)
            with pytest.raises(BlockingIOError):
                receiver.recv(4096)
            receiver.settimeout(TIMEOUT_S)
            process.stdin.write("\n")
            process.stdin.flush()
            assert heard(receiver) == "READY=1"
            process.send_signal(signal.SIGTERM)
            assert heard(receiver) == "STOPPING=1"
            assert process.wait(TIMEOUT_S) == 0
        finally:
            process.kill()
            process.communicate()
