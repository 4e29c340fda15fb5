"""What several test files need: lessons, manifests, a trainer in this process and one as a process of its own."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest

from paceline.trainer.replay import MIB, ReplayBuffer, replay_bounds
from paceline.trainer.revisions import RevisionStore
from paceline.trainer.service import Stores, TrainerService
from paceline.v1 import trainer_pb2, trainer_pb2_grpc, types_pb2
from paceline.wire.channel import connect
from paceline.wire.errors import PacelineError
from paceline.wire.server import Server
from paceline.wire.settings import ClientSettings, ServiceSettings
from paceline.wire.status import from_rpc_error
from paceline.wire.tracing import NO_SPANS, Spans
from paceline.wire.upload import agreed

Files = dict[str, bytes]
TIMEOUT_S = 30.0


def lesson(number: int, **changes: object) -> trainer_pb2.Lesson:
    fields: dict[str, object] = {
        "lesson_id": number.to_bytes(16, "big"),
        "tenant": "acme",
        "context": [1, 2, 3],
        "tokens": [4, 5],
        "accepted": [True, False],
        "top_k": 2,
        "top_k_ids": [4, 1, 5, 2],
        "top_k_log_probs": [-0.125, -2.5, -0.25, -3.0],
        "temperature": 0.5,
    }
    return trainer_pb2.Lesson(**{**fields, **changes})  # type: ignore[arg-type]


def manifest_for(files: Files, **fields: object) -> trainer_pb2.RevisionManifest:
    infos = [
        types_pb2.FileInfo(path=path, size=len(data), sha256=hashlib.sha256(data).digest())
        for path, data in files.items()
    ]
    return trainer_pb2.RevisionManifest(**{"drafter": "tiny", **fields}, files=infos)  # type: ignore[arg-type]


async def publish(
    stub: trainer_pb2_grpc.TrainerStub,
    manifest: trainer_pb2.RevisionManifest,
    content: bytes,
    chunk: int = 1000,
    signature: bytes = b"",
) -> trainer_pb2.Revision:
    async def parts() -> AsyncIterator[trainer_pb2.PublishRevisionRequest]:
        yield trainer_pb2.PublishRevisionRequest(manifest=manifest, signature=signature)
        if not await agreed(call):
            return
        for start in range(0, len(content), chunk):
            yield trainer_pb2.PublishRevisionRequest(chunk=content[start : start + chunk])

    call = stub.PublishRevision(parts(), timeout=TIMEOUT_S)
    return (await call).revision


async def publish_files(stub: trainer_pb2_grpc.TrainerStub, files: Files, **fields: object) -> trainer_pb2.Revision:
    return await publish(stub, manifest_for(files, **fields), b"".join(files.values()))


@asynccontextmanager
async def serving(
    folder: Path, clock: Callable[[], float] = time.time, idle_s: float = 60.0, spans: Spans = NO_SPANS
) -> AsyncIterator[tuple[trainer_pb2_grpc.TrainerStub, TrainerService]]:
    replay = ReplayBuffer(folder / "replay", replay_bounds(16 * MIB, 0.0), clock)
    await replay.open()
    service = TrainerService(clock, idle_s, spans=spans)
    service.stores = Stores(replay, RevisionStore(folder / "revisions"))
    server = Server(ServiceSettings(), ["paceline.v1.Trainer"])
    trainer_pb2_grpc.add_TrainerServicer_to_server(service, server.grpc)
    await server.bind()
    try:
        async with connect(server.address, ClientSettings()) as channel:
            yield trainer_pb2_grpc.TrainerStub(channel), service
    finally:
        await server.grpc.stop(None)
        await service.close()
        await replay.close()


async def refusal_of(call: object) -> PacelineError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call  # type: ignore[misc]
    refusal = from_rpc_error(error.value)
    assert refusal is not None, error.value
    return refusal


@contextmanager
def process(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A real trainer; yields it and its address."""
    ready = folder / "ready"
    ready.unlink(missing_ok=True)
    command = [sys.executable, "-m", "paceline.trainer", "serve", "--listen", "127.0.0.1:0"]
    command += ["--data", str(folder / "data"), "--ready-file", str(ready), *arguments]
    with (folder / "log").open("ab") as log:
        running = subprocess.Popen(command, stderr=log)
    try:
        deadline = time.monotonic() + TIMEOUT_S
        while not ready.exists():
            assert running.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield running, json.loads(ready.read_text())["address"]
    finally:
        running.kill()
        running.wait()
