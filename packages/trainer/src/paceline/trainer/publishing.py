"""The commands that make a revision of a folder, and the keys to sign it with."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from paceline.trainer.manifest import check_manifest
from paceline.trainer.remote import Bar, run_call
from paceline.trainer.revisions import CHUNK_BYTES
from paceline.trainer.settings import KeygenSettings, PublishSettings
from paceline.v1 import trainer_pb2, trainer_pb2_grpc, types_pb2
from paceline.wire.revision import MANIFEST, parse_manifest
from paceline.wire.revision_folder import LIMITS, SIGNATURE, signature_in
from paceline.wire.settings import StartupError
from paceline.wire.signature import new_key, signer, write_private
from paceline.wire.tracing import NO_SPAN, Span, metadata_of
from paceline.wire.upload import agreed

_TOLD = ("drafter", "model", "tokenizer_hash", "format", "parent")


def keygen(settings: KeygenSettings) -> int:
    """Makes a pair of keys; prints where the public one is."""
    public_file = settings.out.with_name(f"{settings.out.name}.pub")
    if public_file.exists():
        raise StartupError(f"--out {settings.out}: {public_file} exists; choose another name")
    private, public = new_key()
    try:
        write_private(settings.out, private)
        public_file.write_bytes(public)
    except OSError as error:
        raise StartupError(f"--out {settings.out}: {error.strerror}") from error
    print(public_file)
    return 0


def publish(settings: PublishSettings) -> int:
    """Publishes a folder's files; prints the revision's id."""
    sign = signer(settings.sign) if settings.sign is not None else None

    async def call(trainer: trainer_pb2_grpc.TrainerStub) -> None:
        manifest = await asyncio.to_thread(manifest_of, settings)
        signature = sign(manifest) if sign is not None else signature_in(settings.folder)
        revision = await send_folder(trainer, settings.folder, manifest, signature)
        if signature not in (b"", revision.signature):
            raise StartupError(f"{revision.revision_id} was published before, and signed with another key")
        print(revision.revision_id)

    run_call(settings, call)
    return 0


async def send_folder(
    trainer: trainer_pb2_grpc.TrainerStub,
    folder: Path,
    manifest: trainer_pb2.RevisionManifest,
    signature: bytes = b"",
    span: Span = NO_SPAN,
) -> trainer_pb2.Revision:
    """Publishes the files that a manifest lists, as a part of `span`. Raises AioRpcError, and OSError for what can't be
    read."""
    with Bar("publishing", sum(file.size for file in manifest.files)) as bar:

        async def parts() -> AsyncIterator[trainer_pb2.PublishRevisionRequest]:
            yield trainer_pb2.PublishRevisionRequest(manifest=manifest, signature=signature)
            if not await agreed(call):
                return
            chunks = _chunks(folder, manifest)
            while chunk := await asyncio.to_thread(next, chunks, b""):
                yield trainer_pb2.PublishRevisionRequest(chunk=chunk)
                bar.advance(len(chunk))

        call = trainer.PublishRevision(parts(), metadata=metadata_of(span))
        return (await call).revision


def manifest_of(settings: PublishSettings) -> trainer_pb2.RevisionManifest:
    """The manifest in a folder, or one made for it.

    Raises StartupError if the folder is empty, or its manifest says otherwise than files or settings do; PacelineError
    for what can't be published.
    """
    folder = settings.folder
    paths = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
    if not paths:
        raise StartupError(f"--folder {folder}: no such folder, or no files in it")
    if folder / MANIFEST in paths:
        return _manifest_in(settings, paths)
    if not settings.drafter:
        raise StartupError(f"--folder {folder} has no {MANIFEST}: give --drafter with the line that it belongs to")
    manifest = trainer_pb2.RevisionManifest(
        drafter=settings.drafter,
        parent=settings.parent,
        model=settings.model,
        tokenizer_hash=settings.tokenizer_hash,
        format=settings.format or "safetensors",
        command=f"paceline-trainer publish --drafter={settings.drafter}",
        metrics=settings.metrics,
        files=_infos(folder, paths),
    )
    check_manifest(manifest)
    return manifest


def _manifest_in(settings: PublishSettings, paths: list[Path]) -> trainer_pb2.RevisionManifest:
    folder = settings.folder
    with (folder / MANIFEST).open("rb") as file:
        manifest = parse_manifest(file.read(LIMITS[MANIFEST]))
    check_manifest(manifest)
    for name in _TOLD:
        wanted, found = getattr(settings, name), getattr(manifest, name)
        if wanted and wanted != found:
            flag = name.replace("_", "-")
            raise StartupError(f"--{flag} {wanted}: {folder / MANIFEST} says {found!r}; leave --{flag} out")
    if settings.metrics and settings.metrics != dict(manifest.metrics):
        raise StartupError(f"--metrics: {folder / MANIFEST} has others; leave --metrics out")
    beside = (folder / MANIFEST, folder / SIGNATURE)
    infos = {info.path: info for info in _infos(folder, [path for path in paths if path not in beside])}
    listed = {info.path: info for info in manifest.files}
    for path in sorted(listed.keys() | infos.keys()):
        if listed.get(path) != infos.get(path):
            why = "isn't there" if path not in infos else "isn't listed" if path not in listed else "is another"
            raise StartupError(f"{folder / path} {why}, by {MANIFEST}; restore the folder or make it again")
    return manifest


def _infos(folder: Path, paths: list[Path]) -> list[types_pb2.FileInfo]:
    infos = []
    for path in paths:
        with path.open("rb") as source:
            digest = hashlib.file_digest(source, "sha256").digest()
        name = path.relative_to(folder).as_posix()
        infos.append(types_pb2.FileInfo(path=name, size=path.stat().st_size, sha256=digest))
    return infos


def _chunks(folder: Path, manifest: trainer_pb2.RevisionManifest) -> Iterator[bytes]:
    for file in manifest.files:
        with (folder / file.path).open("rb") as source:
            while chunk := source.read(CHUNK_BYTES):
                yield chunk
