"""Commands that talk to a trainer: publish a folder, fetch a revision, list revisions."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import grpc
from google.protobuf import json_format
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from paceline.trainer.revisions import CHUNK_BYTES, Incoming, check_manifest
from paceline.trainer.settings import FetchSettings, PublishSettings, RemoteSettings, RevisionsSettings
from paceline.v1 import trainer_pb2, trainer_pb2_grpc, types_pb2
from paceline.wire.channel import connect
from paceline.wire.errors import PacelineError
from paceline.wire.revision import revision_id
from paceline.wire.settings import StartupError
from paceline.wire.status import from_rpc_error

T = TypeVar("T")
errors = Console(stderr=True)


def publish(settings: PublishSettings) -> int:
    """Publishes a folder's files; prints the revision's id."""
    manifest = manifest_of(settings)
    with _progress() as progress:
        task = progress.add_task("publishing", total=sum(file.size for file in manifest.files))

        async def parts() -> AsyncIterator[trainer_pb2.PublishRevisionRequest]:
            yield trainer_pb2.PublishRevisionRequest(manifest=manifest)
            for chunk in _chunks(settings.folder, manifest):
                progress.advance(task, len(chunk))
                yield trainer_pb2.PublishRevisionRequest(chunk=chunk)

        async def call(trainer: trainer_pb2_grpc.TrainerStub) -> trainer_pb2.PublishRevisionResponse:
            return await trainer.PublishRevision(parts())

        response = _run(settings, call)
    print(response.revision.revision_id)
    return 0


def manifest_of(settings: PublishSettings) -> trainer_pb2.RevisionManifest:
    """The manifest of a folder. Raises StartupError if there is nothing in it."""
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
        command=" ".join(["paceline-trainer", "publish", f"--drafter={settings.drafter}"]),
        files=[
            types_pb2.FileInfo(path=path.relative_to(folder).as_posix(), size=path.stat().st_size, sha256=_sha256(path))
            for path in paths
        ],
    )
    try:
        check_manifest(manifest)
    except PacelineError as error:
        raise StartupError(error.message) from error
    return manifest


def fetch(settings: FetchSettings) -> int:
    """Fetches a revision into a new folder: whole and checked, or not at all."""
    if settings.out.exists():
        raise StartupError(f"--out {settings.out} exists; choose a folder that doesn't")
    parent = settings.out.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    with _progress() as progress, tempfile.TemporaryDirectory(dir=parent, prefix=".fetching-") as folder:

        async def call(trainer: trainer_pb2_grpc.TrainerStub) -> None:
            await receive(trainer, settings.revision, Path(folder) / "files", progress)

        _run(settings, call)
        os.rename(Path(folder) / "files", settings.out)
    print(settings.out)
    return 0


async def receive(
    trainer: trainer_pb2_grpc.TrainerStub, name: str, folder: Path, progress: Progress
) -> trainer_pb2.RevisionManifest:
    """Writes a revision's files into `folder`. Raises PacelineError if a byte differs from what `name` vouches for."""
    incoming: Incoming | None = None
    task = progress.add_task("fetching", total=None)
    async for response in trainer.FetchRevision(trainer_pb2.FetchRevisionRequest(revision_id=name)):
        if response.HasField("revision"):
            manifest = response.revision.manifest
            if revision_id(manifest) != name:
                raise StartupError(f"the trainer sent another revision than {name}")
            check_manifest(manifest)
            progress.update(task, total=sum(file.size for file in manifest.files))
            incoming = Incoming(manifest, folder)
        elif incoming is None:
            raise StartupError("the trainer sent bytes before the revision")
        else:
            incoming.write(response.chunk)
            progress.advance(task, len(response.chunk))
    if incoming is None:
        raise StartupError("the trainer sent nothing")
    incoming.check_complete()
    return incoming.manifest


def revisions(settings: RevisionsSettings) -> int:
    """Lists revisions."""

    async def call(trainer: trainer_pb2_grpc.TrainerStub) -> list[trainer_pb2.Revision]:
        found: list[trainer_pb2.Revision] = []
        token = ""
        while True:
            request = trainer_pb2.ListRevisionsRequest(drafter=settings.drafter, page_token=token)
            response = await trainer.ListRevisions(request)
            found.extend(response.revisions)
            token = response.next_page_token
            if not token:
                return found

    found = _run(settings, call)
    if settings.json_output:
        for revision in found:
            print(json.dumps(json_format.MessageToDict(revision, preserving_proto_field_name=True)))
        return 0
    table = Table("revision", "drafter", "model", "format", "files", "MiB", "metrics")
    for revision in found:
        manifest = revision.manifest
        size = sum(file.size for file in manifest.files) / 2**20
        metrics = ", ".join(f"{name} {value:.3g}" for name, value in sorted(manifest.metrics.items()))
        row = (manifest.drafter, manifest.model, manifest.format, str(len(manifest.files)), f"{size:.1f}", metrics)
        table.add_row(revision.revision_id[:16], *row)
    Console().print(table)
    return 0


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


def _chunks(folder: Path, manifest: trainer_pb2.RevisionManifest) -> Iterator[bytes]:
    for file in manifest.files:
        with (folder / file.path).open("rb") as source:
            while chunk := source.read(CHUNK_BYTES):
                yield chunk


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _progress() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=errors, transient=True, disable=not sys.stderr.isatty())
