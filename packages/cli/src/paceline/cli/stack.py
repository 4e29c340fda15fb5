"""A whole deployment as processes on loopback: for the demo, for `up`, and for end-to-end tests.

Each service gets a free port, a log file, and a ready file that it writes when it serves; nothing rests on sleeps.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import grpc

from paceline.v1 import router_pb2, router_pb2_grpc
from paceline.wire.settings import ClientSettings
from paceline.wire.tls import channel_credentials

POLL_S = 0.05
STOP_S = 15.0


class StackError(Exception):
    """A process did not come up; the message has its last words."""


@dataclass
class Service:
    """One running process."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    ready_file: Path
    address: str = ""
    http: str = ""  # of a router that serves HTTP too

    @property
    def pid(self) -> int:
        return self.process.pid

    def poll_ready(self) -> bool:
        """Whether it serves by now. Raises StackError if it ended instead."""
        if self.address:
            return True
        if self.ready_file.exists():
            addresses = json.loads(self.ready_file.read_text())
            self.address, self.http = addresses["address"], addresses.get("http", "")
            return True
        if self.process.poll() is not None:
            raise StackError(f"{self.name} ended with exit code {self.process.returncode}: {self.last_words()}")
        return False

    def last_words(self) -> str:
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else "(it said nothing)"

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        """SIGTERM, then waits; returns the exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


@dataclass
class Stack:
    """Services that belong together. Use as a context manager; leaving it stops all of them.

    Args:
        folder: for logs, ready files and state.
        environment: added to each process's environment.
        client: how its services are dialled.
    """

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    client: ClientSettings = field(default_factory=ClientSettings)
    services: dict[str, Service] = field(default_factory=dict)

    def __enter__(self) -> Stack:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StackError(f"can't make the folder {self.folder}: {error.strerror}; choose another") from error
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    def start(self, name: str, package: str, *arguments: str) -> Service:
        """Starts `paceline-<package> serve` with these arguments; doesn't wait."""
        listen = () if "--listen" in arguments else ("--listen", "127.0.0.1:0")
        return self.spawn(name, "-m", f"paceline.{package}", "serve", *listen, *arguments)

    def spawn(self, name: str, *command: str) -> Service:
        """Starts a Python process that understands --ready-file."""
        ready_file = self.folder / f"{name}.ready"
        ready_file.unlink(missing_ok=True)
        return self.spawn_plain(name, *command, "--ready-file", str(ready_file))

    def spawn_plain(self, name: str, *command: str) -> Service:
        """Starts any Python process; its output goes to its log."""
        ready_file = self.folder / f"{name}.ready"
        log = self.folder / f"{name}.log"
        with self._opened(log) as output:
            process = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", **self.environment},
            )
        self.services[name] = Service(name, process, log, ready_file)
        return self.services[name]

    def _opened(self, log: Path) -> BinaryIO:
        try:
            return log.open("wb")
        except OSError as error:
            raise StackError(f"can't write {log}: {error.strerror}; choose another folder") from error

    def wait(self, *names: str, timeout_s: float = 300.0, tick: Callable[[], None] = lambda: None) -> None:
        """Until these services (all, if none is named) serve; `tick` is called while waiting."""
        deadline = time.monotonic() + timeout_s
        waiting = [self.services[name] for name in names or self.services]
        while waiting := [service for service in waiting if not service.poll_ready()]:
            if time.monotonic() > deadline:
                slow = ", ".join(f"{service.name} ({service.last_words()})" for service in waiting)
                raise StackError(f"not ready after {timeout_s:.0f} s: {slow}")
            tick()
            time.sleep(POLL_S)

    def wait_for_output(self, service: Service, words: str, timeout_s: float = 30.0) -> None:
        """Until a process has printed these words."""
        deadline = time.monotonic() + timeout_s
        while words not in service.log.read_text(errors="replace"):
            if service.process.poll() is not None or time.monotonic() > deadline:
                raise StackError(f"{service.name} did not print {words!r}: {service.last_words()}")
            time.sleep(POLL_S)

    def wait_connected(
        self,
        router: str,
        drafter_names: list[str],
        verifiers: int = 1,
        timeout_s: float = 30.0,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        """Until each of so many verifiers has a drafter of each name on a stream, as the router sees it."""
        deadline = time.monotonic() + timeout_s
        token = self.client.token
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        with self._channel(router) as channel:
            stub = router_pb2_grpc.RouterStub(channel)
            while True:
                try:
                    status = stub.GetStatus(router_pb2.GetStatusRequest(), timeout=5.0, metadata=metadata)
                except grpc.RpcError as error:  # in truth a grpc.Call, too
                    raise StackError(f"the router at {router} can't be asked: {error.details()}") from error
                if _connected(list(status.members), set(drafter_names), verifiers):
                    return
                if time.monotonic() > deadline:
                    raise StackError(f"drafters {drafter_names} did not connect within {timeout_s:.0f} s")
                tick()
                time.sleep(POLL_S)

    def _channel(self, address: str) -> grpc.Channel:
        credentials = channel_credentials(self.client)
        return grpc.insecure_channel(address) if credentials is None else grpc.secure_channel(address, credentials)

    def stop(self) -> None:
        """Ends every process: SIGTERM to all, then SIGKILL to what remains."""
        for service in self.services.values():
            if service.process.poll() is None:
                service.process.terminate()
        for service in self.services.values():
            service.terminate()


def _connected(members: list[router_pb2.Member], drafter_names: set[str], verifiers: int) -> bool:
    names = {member.id: member.name for member in members if member.role == router_pb2.ROLE_DRAFTER}
    hosts = [member for member in members if member.role == router_pb2.ROLE_VERIFIER]
    complete = [host for host in hosts if drafter_names <= {names.get(drafter, "") for drafter in host.connected}]
    return len(complete) >= verifiers
