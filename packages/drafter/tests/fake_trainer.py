"""A trainer as far as a drafter can see: a real server whose revisions and withdrawals the test decides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from paceline.v1 import trainer_pb2, trainer_pb2_grpc, types_pb2
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.model_card import LanguageModelCard, card_json
from paceline.wire.revision import parse_manifest, revision_id
from paceline.wire.revision_folder import seal
from paceline.wire.status import abort

LINE = "tiny"
CARD = LanguageModelCard(
    architecture="Tiny",
    vocab_size=10,
    max_length=100,
    num_layers=1,
    num_kv_heads=1,
    key_dim=2,
    value_dim=2,
    quantization="none",
)


def make_folder(folder: Path, card: LanguageModelCard = CARD, graph: bytes = b"graph", **fields: Any) -> Path:
    """A revision's folder, with a graph that nobody could run."""
    folder.mkdir(parents=True)
    (folder / "model.json").write_bytes(card_json(card))
    (folder / "model.onnx").write_bytes(graph)
    (folder / "tokenizer.json").write_bytes(b"{}")
    (folder / "weights.safetensors").write_bytes(b"w" * 5000)
    (folder / "notes").write_bytes(b"")
    seal(folder, trainer_pb2.RevisionManifest(**{"drafter": LINE, "format": "onnx", **fields}))
    return folder


class FakeTrainer(trainer_pb2_grpc.TrainerServicer):
    """Hands out folders. `withdrawals` gets what drafters withdraw."""

    def __init__(self) -> None:
        self.folders: dict[str, Path] = {}
        self.revisions: dict[str, trainer_pb2.Revision] = {}
        self.withdrawals: asyncio.Queue[trainer_pb2.WithdrawRevisionRequest] = asyncio.Queue()
        self.num_fetches = 0
        self.stops_after: int | None = None  # chunks, once
        self.address = "127.0.0.1:0"
        self._watchers: list[asyncio.Queue[trainer_pb2.Revision]] = []
        self._server: grpc.aio.Server | None = None

    def publish(self, folder: Path, signature: bytes = b"") -> str:
        manifest = parse_manifest((folder / "manifest.json").read_bytes())
        name = revision_id(manifest)
        self.folders[name] = folder
        self.tell(trainer_pb2.Revision(revision_id=name, manifest=manifest, signature=signature))
        return name

    def withdraw(self, name: str) -> None:
        self.revisions[name].withdrawn = "the test said so"
        self.tell(self.revisions[name])

    def tell(self, revision: trainer_pb2.Revision) -> None:
        self.revisions[revision.revision_id] = revision
        for watcher in self._watchers:
            watcher.put_nowait(revision)

    async def WatchRevisions(self, request: Any, context: Any) -> AsyncIterator[trainer_pb2.WatchRevisionsResponse]:
        mine: asyncio.Queue[trainer_pb2.Revision] = asyncio.Queue()
        in_use = [item for item in self.revisions.values() if not item.withdrawn]
        for newest in in_use[-1:]:
            mine.put_nowait(newest)
        self._watchers.append(mine)
        try:
            while True:
                yield trainer_pb2.WatchRevisionsResponse(revision=await mine.get())
        finally:
            self._watchers.remove(mine)

    async def FetchRevision(self, request: Any, context: Any) -> AsyncIterator[trainer_pb2.FetchRevisionResponse]:
        self.num_fetches += 1
        if request.revision_id not in self.folders:
            await abort(context, PacelineError(Reason.UNKNOWN_REVISION, "not here"))
        revision = self.revisions[request.revision_id]
        yield trainer_pb2.FetchRevisionResponse(revision=revision)
        folder, num_chunks = self.folders[request.revision_id], 0
        for file in revision.manifest.files:
            content = (folder / file.path).read_bytes()
            for start in range(0, len(content), 100_000):
                if num_chunks == self.stops_after:
                    self.stops_after = None
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
                num_chunks += 1
                yield trainer_pb2.FetchRevisionResponse(chunk=content[start : start + 100_000])

    async def WithdrawRevision(self, request: Any, context: Any) -> trainer_pb2.WithdrawRevisionResponse:
        self.withdrawals.put_nowait(request)
        self.withdraw(request.revision_id)
        return trainer_pb2.WithdrawRevisionResponse(revision=self.revisions[request.revision_id])

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Listens; the second time at the same address."""
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        trainer_pb2_grpc.add_TrainerServicer_to_server(self, server)
        port = server.add_insecure_port(self.address)
        self.address = f"127.0.0.1:{port}"
        await server.start()
        try:
            yield self.address
        finally:
            await server.stop(None)


def with_file(revision: trainer_pb2.Revision, **fields: Any) -> trainer_pb2.Revision:
    """Another revision, whose manifest lists one file more."""
    other = trainer_pb2.Revision()
    other.CopyFrom(revision)
    other.manifest.files.append(types_pb2.FileInfo(**{"path": "more", "size": 1, "sha256": bytes(32), **fields}))
    other.revision_id = revision_id(other.manifest)
    return other
