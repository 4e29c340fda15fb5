"""Commands that talk to a trainer: publish a folder, fetch a revision, list revisions."""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import grpc
from google.protobuf import json_format
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from paceline.trainer.incoming import Incoming
from paceline.trainer.manifest import check_manifest
from paceline.trainer.revisions import CHUNK_BYTES
from paceline.trainer.settings import FetchSettings, PublishSettings, RemoteSettings, RevisionsSettings
from paceline.v1 import trainer_pb2, trainer_pb2_grpc, types_pb2
from paceline.wire.channel import connect
from paceline.wire.errors import PacelineError
from paceline.wire.revision import revision_id
from paceline.wire.settings import StartupError
from paceline.wire.status import from_rpc_error
from paceline.wire.upload import agreed

T = TypeVar("T")

BAR_AFTER_S = 2.0
ID_LENGTH = 64
SHOWN_LENGTH = 16
CALL_TIMEOUT_S = 30.0


class Bar:
    """A progress bar on standard error, if that is a terminal and the work takes longer than people like to wait.

    total: in bytes; may be set once it is known.
    """

    def __init__(self, title: str, total: int = 0) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        console = Console(stderr=True)
        self.total = total
        self._progress = Progress(
            *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
        )
        self._task = self._progress.add_task(title, total=None)
        self._begun_s = time.monotonic()

    def __enter__(self) -> Bar:
        return self

    def advance(self, num_bytes: int) -> None:
        self._progress.update(self._task, advance=num_bytes, total=self.total)
        if not self._progress.live.is_started and time.monotonic() - self._begun_s > BAR_AFTER_S:
            self._progress.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._progress.live.is_started:
            self._progress.stop()


def publish(settings: PublishSettings) -> int:
    """Publishes a folder's files; prints the revision's id."""

    async def call(trainer: trainer_pb2_grpc.TrainerStub) -> trainer_pb2.PublishRevisionResponse:
        manifest = await asyncio.to_thread(manifest_of, settings)
        with Bar("publishing", sum(file.size for file in manifest.files)) as bar:

            async def parts() -> AsyncIterator[trainer_pb2.PublishRevisionRequest]:
                yield trainer_pb2.PublishRevisionRequest(manifest=manifest)
                if not await agreed(call):
                    return
                chunks = _chunks(settings.folder, manifest)
                while chunk := await asyncio.to_thread(next, chunks, b""):
                    yield trainer_pb2.PublishRevisionRequest(chunk=chunk)
                    bar.advance(len(chunk))

            call = trainer.PublishRevision(parts())
            return await call

    response = _run(settings, call)
    print(response.revision.revision_id)
    return 0


def manifest_of(settings: PublishSettings) -> trainer_pb2.RevisionManifest:
    """The manifest of a folder. Raises StartupError if it is empty, PacelineError for what can't be published."""
    folder = settings.folder
    paths = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
    if not paths:
        raise StartupError(f"--folder {folder}: no such folder, or no files in it")
    manifest = trainer_pb2.RevisionManifest(
        drafter=settings.drafter,
        parent=settings.parent,
        model=settings.model,
        tokenizer_hash=settings.tokenizer_hash,
        format=settings.format,
        command=f"paceline-trainer publish --drafter={settings.drafter}",
        metrics=settings.metrics,
        files=[
            types_pb2.FileInfo(path=path.relative_to(folder).as_posix(), size=path.stat().st_size) for path in paths
        ],
    )
    for file, path in zip(manifest.files, paths, strict=True):
        file.sha256 = _sha256(path)
    check_manifest(manifest)
    return manifest


def fetch(settings: FetchSettings) -> int:
    """Fetches a revision into a new folder: whole and checked, or not at all."""
    out = settings.out
    if out.exists():
        raise StartupError(f"--out {out} exists; choose a folder that doesn't")

    async def call(trainer: trainer_pb2_grpc.TrainerStub) -> None:
        name = await full_id(trainer, settings.revision)
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.absolute().parent, prefix=".fetching-") as folder:
            incoming = await receive(trainer, name, Path(folder) / "files")
            incoming.place(out.absolute())

    _run(settings, call)
    print(out)
    return 0


async def full_id(trainer: trainer_pb2_grpc.TrainerStub, beginning: str) -> str:
    """The one revision_id that begins so. Raises StartupError for none or several."""
    if len(beginning) >= ID_LENGTH:
        return beginning
    names = [item.revision_id for item in await list_all(trainer, "") if item.revision_id.startswith(beginning)]
    if len(names) != 1:
        raise StartupError(
            f"--revision {beginning}: {len(names)} revisions begin so; 'revisions --json' shows whole ids"
        )
    return names[0]


async def receive(trainer: trainer_pb2_grpc.TrainerStub, name: str, folder: Path) -> Incoming:
    """A revision's files, written into `folder` and complete once placed.

    Raises PacelineError or StartupError if a byte differs from what `name` vouches for: the trainer isn't trusted.
    """
    incoming: Incoming | None = None
    with Bar("fetching") as bar:
        async for response in trainer.FetchRevision(trainer_pb2.FetchRevisionRequest(revision_id=name)):
            if incoming is not None:
                await asyncio.to_thread(incoming.write, response.chunk)
                bar.advance(len(response.chunk))
                continue
            manifest = response.revision.manifest
            check_manifest(manifest)
            if revision_id(manifest) != name:
                raise StartupError(f"the trainer sent another revision than {name}")
            bar.total = sum(file.size for file in manifest.files)
            incoming = Incoming(manifest, folder, file_mode=0o666, folder_mode=0o777)
    if incoming is None:
        raise StartupError("the trainer sent nothing")
    return incoming


async def list_all(trainer: trainer_pb2_grpc.TrainerStub, drafter: str) -> list[trainer_pb2.Revision]:
    """Every revision of a line, or of all, newest first."""
    found: list[trainer_pb2.Revision] = []
    token = ""
    while True:
        request = trainer_pb2.ListRevisionsRequest(drafter=drafter, page_token=token)
        response = await trainer.ListRevisions(request, timeout=CALL_TIMEOUT_S)
        found.extend(response.revisions)
        token = response.next_page_token
        if not token:
            return found


def revisions(settings: RevisionsSettings) -> int:
    """Lists revisions."""
    found = _run(settings, lambda trainer: list_all(trainer, settings.drafter))
    if settings.json_output:
        for revision in found:
            print(json.dumps(json_format.MessageToDict(revision, preserving_proto_field_name=True)))
        return 0
    Console().print(revisions_table(found))
    return 0


def revisions_table(found: list[trainer_pb2.Revision]) -> Table:
    """For people: the beginning of each id is enough for `fetch`."""
    table = Table("revision", "published", "drafter", "model", "format", "files", "MiB", "metrics")
    for revision in found:
        manifest = revision.manifest
        row = (
            revision.revision_id[:SHOWN_LENGTH],
            time.strftime("%Y-%m-%d %H:%M", time.localtime(revision.published_unix_s)),
            manifest.drafter,
            manifest.model,
            manifest.format,
            str(len(manifest.files)),
            f"{sum(file.size for file in manifest.files) / 2**20:.1f}",
            ", ".join(f"{name} {value:.3g}" for name, value in sorted(manifest.metrics.items())),
        )
        table.add_row(*(Text(cell) for cell in row))  # as text: others' names must not be read as markup
    return table


def _run(settings: RemoteSettings, call: Callable[[trainer_pb2_grpc.TrainerStub], Awaitable[T]]) -> T:
    """Runs calls against the trainer; what goes wrong becomes one line."""

    async def connected() -> T:
        async with connect(settings.trainer, settings) as channel:
            return await call(trainer_pb2_grpc.TrainerStub(channel))

    try:
        return asyncio.run(connected())
    except grpc.aio.AioRpcError as error:
        refusal = from_rpc_error(error)
        raise StartupError(refusal.message if refusal else f"trainer {settings.trainer}: {error.details()}") from error
    except PacelineError as error:
        raise StartupError(error.message) from error
    except OSError as error:
        raise StartupError(f"{error.filename or 'disk'}: {error.strerror}") from error


def _chunks(folder: Path, manifest: trainer_pb2.RevisionManifest) -> Iterator[bytes]:
    for file in manifest.files:
        with (folder / file.path).open("rb") as source:
            while chunk := source.read(CHUNK_BYTES):
                yield chunk


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
