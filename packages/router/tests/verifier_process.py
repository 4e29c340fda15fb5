"""Verifiers that are processes, to be killed or frozen."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

START_S = 60.0  # for a process to start, on a machine that does much else

VERIFIER = """
import asyncio, sys
import grpc.aio
from conftest import FakeVerifier
from paceline.router.convert import member_to_proto
from paceline.v1 import router_pb2, router_pb2_grpc
from paceline.wire.version import make_peer

async def main(verifier_id, router, port, stop_at):
    verifier = FakeVerifier(verifier_id, stop_at=int(stop_at))
    await verifier.start(int(port))
    member = member_to_proto(verifier.member())
    member.peer.CopyFrom(make_peer("test", "0"))
    registry = router_pb2_grpc.RegistryStub(grpc.aio.insecure_channel(router))
    stopped = asyncio.create_task(verifier.stopped.wait())
    while True:
        await registry.Announce(router_pb2.AnnounceRequest(member=member))
        print(verifier.address, flush=True)
        await asyncio.wait([stopped], timeout=0.2)
        if stopped.done():
            print("stopped", flush=True)
            await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""

Start = Callable[..., "Process"]


class Process:
    """A fake verifier in a process of its own, announced to a router until it stands still at `stop_at`."""

    def __init__(self, verifier_id: str, router: str, port: int = 0, stop_at: int = -1) -> None:
        paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        self.process = subprocess.Popen(
            [sys.executable, "-c", VERIFIER, verifier_id, router, str(port), str(stop_at)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        )

    async def line(self) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(START_S):
            said = await asyncio.to_thread(self.process.stdout.readline)
        assert said, "the verifier ended by itself"
        return said.strip()

    async def stopped(self) -> None:
        """Until it stands still in mid-answer."""
        while await self.line() != "stopped":
            pass

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(START_S)

    def freeze(self) -> None:
        """It keeps its connections, takes new ones, and says nothing any more."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)


@contextmanager
def processes() -> Iterator[Start]:
    """Starts some; at the end all are gone."""
    started: list[Process] = []

    def begin(*arguments: object, **fields: object) -> Process:
        started.append(Process(*arguments, **fields))  # type: ignore[arg-type]
        return started[-1]

    yield begin
    for one in started:
        one.process.kill()
        one.process.communicate()
