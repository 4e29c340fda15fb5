"""Routers as processes of their own, for tests of the real program."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

START_S = 20.0


class Process:
    """`python -m paceline.router serve`, on a port of its own choice."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.ready_file = folder / "ready.json"
        self.ready_file.unlink(missing_ok=True)
        command = [sys.executable, "-m", "paceline.router", "serve", "--listen", "127.0.0.1:0"]
        command += ["--ready-file", str(self.ready_file), *flags]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    async def ready(self) -> dict[str, str]:
        """Addresses by door; `address` is gRPC's."""
        deadline_s = time.monotonic() + START_S
        while not self.ready_file.exists():
            assert self.process.poll() is None, self.process.stderr and self.process.stderr.read()
            assert time.monotonic() < deadline_s
            await asyncio.sleep(0.02)
        addresses: dict[str, str] = json.loads(self.ready_file.read_text())
        return addresses

    async def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Its exit code after a signal, and what it wrote to standard error."""
        self.process.send_signal(number)
        _, errors = await asyncio.to_thread(self.process.communicate, timeout=START_S)
        return self.process.returncode, errors


Start = Callable[..., Process]


@contextmanager
def routers(folder: Path) -> Iterator[Start]:
    """Starts routers, one after the other, with the flags that it is called with; none outlives the context."""
    started: list[Process] = []

    def start(*flags: str) -> Process:
        started.append(Process(folder, *flags))
        return started[-1]

    try:
        yield start
    finally:
        for one in started:
            one.process.kill()
            one.process.communicate()
