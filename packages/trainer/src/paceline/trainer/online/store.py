"""The trainer's store as a learner sees it: one line of revisions, and lessons."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from paceline.trainer.durable import make_private_folder
from paceline.trainer.online.lessons import TargetIdentity
from paceline.trainer.publishing import send_folder
from paceline.trainer.remote import files_beside, list_all, receive
from paceline.v1 import trainer_pb2, trainer_pb2_grpc
from paceline.wire.revision_folder import Revision, open_revision
from paceline.wire.signature import Sign
from paceline.wire.tracing import NO_SPAN, Span

KEPT = 2  # fetched revisions that stay on disk


class Store:
    """Calls to a trainer's store; they raise AioRpcError, PacelineError and OSError.

    Args:
        stub: of the trainer.
        line: of revisions.
        target: whose lessons are wanted.
        folder: for revisions, of this learner alone.
        sign: for those that are published; None leaves them unsigned.
    """

    def __init__(
        self,
        stub: trainer_pb2_grpc.TrainerStub,
        line: str,
        target: TargetIdentity,
        folder: Path,
        sign: Sign | None = None,
    ) -> None:
        self._stub, self._line, self._target = stub, line, target
        self._folder, self._sign = folder, sign
        make_private_folder(folder)
        for left in folder.glob(".*"):
            shutil.rmtree(left, ignore_errors=True)

    async def newest(self) -> trainer_pb2.Revision | None:
        """The newest revision of the line that has not been withdrawn."""
        found = await list_all(self._stub, self._line)
        return next((revision for revision in found if not revision.withdrawn), None)

    async def fetch(self, revision: trainer_pb2.Revision) -> Path:
        """Its folder, every byte of it checked."""
        folder = self._folder / revision.revision_id
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=self._folder, prefix=".fetching-") as temporary:
                incoming, told = await receive(self._stub, revision.revision_id, Path(temporary) / "files")
                await asyncio.to_thread(incoming.place, folder, files_beside(told))
        await asyncio.to_thread(self._forget_all_but, folder)
        return folder

    def _forget_all_but(self, folder: Path) -> None:
        others = [path for path in self._folder.iterdir() if path.is_dir() and path != folder]
        others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        for path in others[KEPT - 1 :]:
            shutil.rmtree(path, ignore_errors=True)

    async def lessons_since(self, newest_id: bytes, max_tokens: int) -> list[trainer_pb2.Lesson]:
        """Those after the one with that id, at most so many tokens of them; the oldest first."""
        request = trainer_pb2.ReadLessonsRequest(
            model=self._target.model,
            tokenizer_hash=self._target.tokenizer_hash,
            max_tokens=max_tokens,
            until_lesson_id=newest_id,
        )
        found = [lesson async for response in self._stub.ReadLessons(request) for lesson in response.lessons]
        return found[::-1]

    @contextmanager
    def new_folder(self) -> Iterator[Path]:
        """A place at which a revision's folder can be made; gone afterwards."""
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=".publishing-") as temporary:
            yield Path(temporary) / "revision"

    async def publish(self, folder: Path, span: Span = NO_SPAN) -> trainer_pb2.Revision:
        """Publishes what lies in a folder that has a manifest, as a part of `span`."""
        revision: Revision = await asyncio.to_thread(open_revision, folder)
        signature = self._sign(revision.manifest) if self._sign is not None else b""
        return await send_folder(self._stub, folder, revision.manifest, signature, span)
