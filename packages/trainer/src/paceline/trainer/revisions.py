"""The revision store: immutable folders named by their content, published whole or not at all.

A revision is written into a temporary folder, every file checked against size and SHA-256 as it arrives and synced, and
then renamed into place: a reader sees the old state or the new one, whenever the process dies.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import structlog
from google.protobuf import json_format

from paceline.trainer.segment_log import PRIVATE_FOLDER, sync_folder
from paceline.v1 import trainer_pb2
from paceline.wire.errors import PacelineError, Reason, out_of_range
from paceline.wire.revision import revision_id

log = structlog.get_logger()

MAX_FILES = 256
MAX_TOTAL_BYTES = 8 * 1024**3
MAX_PATH = 200
MAX_NAME = 200
MAX_METRICS = 64
CHUNK_BYTES = 256 * 1024
RECORD = "record.json"
RESERVED = {RECORD}
TEMPORARY = ".incoming-"
_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class StoredRevision:
    """A published revision and where its files are."""

    revision: trainer_pb2.Revision
    folder: Path

    @property
    def revision_id(self) -> str:
        return self.revision.revision_id


def check_manifest(manifest: trainer_pb2.RevisionManifest) -> None:
    """Raises OUT_OF_RANGE or MALFORMED for what no store should hold, and no client write to its disk."""
    if not 0 < len(manifest.drafter) <= MAX_NAME:
        raise out_of_range(
            "manifest.drafter", f"{len(manifest.drafter)} characters long", f"1 to {MAX_NAME} characters"
        )
    for name in ("model", "tokenizer_hash", "format", "parent"):
        if len(getattr(manifest, name)) > MAX_NAME:
            raise out_of_range(f"manifest.{name}", "too long", f"at most {MAX_NAME} characters")
    if len(manifest.metrics) > MAX_METRICS:
        raise out_of_range("manifest.metrics", f"{len(manifest.metrics)} entries", f"at most {MAX_METRICS}")
    if not 0 < len(manifest.files) <= MAX_FILES:
        raise out_of_range("manifest.files", f"{len(manifest.files)} files", f"1 to {MAX_FILES}")
    total = sum(file.size for file in manifest.files)
    if total > MAX_TOTAL_BYTES:
        raise out_of_range("manifest.files", f"{total} bytes", f"at most {MAX_TOTAL_BYTES} bytes")
    seen: set[str] = set()
    for file in manifest.files:
        _check_path(file.path)
        if file.path.casefold() in seen:
            raise _malformed("manifest.files.path", file.path, "unique, regardless of case")
        seen.add(file.path.casefold())
        if len(file.sha256) != hashlib.sha256().digest_size:
            raise _malformed("manifest.files.sha256", f"{len(file.sha256)} bytes", "32 bytes")


def _check_path(path: str) -> None:
    parts = path.split("/")
    bad = (
        not path
        or len(path) > MAX_PATH
        or "\\" in path
        or "\0" in path
        or PurePosixPath(path).is_absolute()
        or any(part in ("", ".", "..") for part in parts)
        or path in RESERVED
    )
    if bad:
        raise _malformed("manifest.files.path", path[:80], f"relative, of 1 to {MAX_PATH} characters, without '..'")


def _malformed(field: str, value: object, limit: str) -> PacelineError:
    return PacelineError(
        Reason.MALFORMED, f"{field} is {value!r}; it must be {limit}", field=field, value=value, limit=limit
    )


class Incoming:
    """A revision while it arrives. Feed it `write` in the manifest's order, then `RevisionStore.publish` it."""

    def __init__(self, manifest: trainer_pb2.RevisionManifest, folder: Path) -> None:
        self.manifest = manifest
        self.folder = folder
        self._remaining = list(manifest.files)
        self._hash = hashlib.sha256()
        self._received = 0
        self._file: int | None = None
        folder.mkdir(mode=PRIVATE_FOLDER)
        self._finish_complete()

    def write(self, chunk: bytes) -> None:
        """The next bytes; a chunk may end one file and begin another."""
        view = memoryview(chunk)
        while view:
            if not self._remaining:
                raise PacelineError(Reason.MALFORMED, "more bytes came than the manifest's files have", field="chunk")
            part = view[: self._remaining[0].size - self._received]
            if self._file is None:
                self._file = self._open(self._remaining[0].path)
            _write_all(self._file, part)
            self._hash.update(part)
            self._received += len(part)
            view = view[len(part) :]
            self._finish_complete()

    def _open(self, path: str) -> int:
        target = self.folder / path
        target.parent.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        return os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)

    def _finish_complete(self) -> None:
        """Closes every file that has all its bytes, empty ones included; refuses one with another hash."""
        while self._remaining and self._received == self._remaining[0].size:
            expected = self._remaining.pop(0)
            if self._file is None:
                self._file = self._open(expected.path)
            os.fsync(self._file)
            os.close(self._file)
            self._file = None
            if self._hash.digest() != expected.sha256:
                raise PacelineError(
                    Reason.HASH_MISMATCH,
                    f"file {expected.path!r} has another SHA-256 than its manifest says; send it again",
                    field=expected.path,
                    value=self._hash.hexdigest(),
                    limit=expected.sha256.hex(),
                )
            self._hash = hashlib.sha256()
            self._received = 0

    def check_complete(self) -> None:
        if self._remaining:
            missing = self._remaining[0]
            raise PacelineError(
                Reason.MALFORMED,
                f"the stream ended with {self._received} of {missing.size} bytes of {missing.path!r}",
                field=missing.path,
                value=self._received,
                limit=missing.size,
            )

    def discard(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
        shutil.rmtree(self.folder, ignore_errors=True)


class RevisionStore:
    """Published revisions in a folder; several readers and publishers may use it from threads of one process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        for leftover in folder.glob(f"{TEMPORARY}*"):
            log.warning("removing an unfinished revision", folder=leftover.name)
            shutil.rmtree(leftover)
        self._revisions: dict[str, StoredRevision] = {}
        for path in folder.iterdir():
            if _ID.fullmatch(path.name):
                self._load(path)

    def _load(self, folder: Path) -> None:
        try:
            record = json_format.Parse((folder / RECORD).read_text(), trainer_pb2.Revision())
        except (OSError, json_format.ParseError) as error:
            log.error("unreadable revision left out", revision=folder.name, why=str(error)[:200])
            return
        if revision_id(record.manifest) != folder.name:
            log.error("revision left out: its manifest was changed", revision=folder.name)
            return
        self._revisions[folder.name] = StoredRevision(record, folder)

    def receive(self, manifest: trainer_pb2.RevisionManifest) -> Incoming:
        """Begins a revision. Raises for a bad manifest or an unknown parent."""
        check_manifest(manifest)
        if manifest.parent and manifest.parent not in self._revisions:
            raise PacelineError(
                Reason.UNKNOWN_REVISION,
                f"manifest.parent {manifest.parent[:80]!r} is not in this store; publish it first, or leave it empty",
                field="manifest.parent",
                value=manifest.parent,
            )
        return Incoming(manifest, self._folder / f"{TEMPORARY}{secrets.token_hex(8)}")

    def publish(self, incoming: Incoming, now_s: float) -> StoredRevision:
        """Makes a complete revision visible. The same content again gives the revision that is there."""
        incoming.check_complete()
        name = revision_id(incoming.manifest)
        if name in self._revisions:
            incoming.discard()
            return self._revisions[name]
        record = trainer_pb2.Revision(revision_id=name, manifest=incoming.manifest, published_unix_s=now_s)
        path = incoming.folder / RECORD
        with path.open("w") as file:
            file.write(json_format.MessageToJson(record, indent=2))
            file.flush()
            os.fsync(file.fileno())
        for folder in {incoming.folder, *(item for item in incoming.folder.rglob("*") if item.is_dir())}:
            sync_folder(folder)
        target = self._folder / name
        incoming.folder.rename(target)
        sync_folder(self._folder)
        self._revisions[name] = StoredRevision(record, target)
        return self._revisions[name]

    def get(self, name: str) -> StoredRevision:
        """Raises UNKNOWN_REVISION."""
        if name not in self._revisions:
            raise PacelineError(
                Reason.UNKNOWN_REVISION,
                f"revision_id {name[:80]!r} is not in this store; ListRevisions tells what is",
                field="revision_id",
                value=name,
            )
        return self._revisions[name]

    def newest_first(self, drafter: str = "") -> list[StoredRevision]:
        """Of one drafter line, or all."""
        chosen = [item for item in self._revisions.values() if drafter in ("", item.revision.manifest.drafter)]
        return sorted(chosen, key=lambda item: (-item.revision.published_unix_s, item.revision_id))

    def page(self, drafter: str, size: int, token: str) -> tuple[list[StoredRevision], str]:
        """Up to `size` revisions after the one that `token` names, and the next token ("" at the end).

        A token is a place in the order, so revisions published between pages neither repeat nor hide others.
        """
        listed = self.newest_first(drafter)
        if token:
            after = _decode_token(token)
            listed = [item for item in listed if (-item.revision.published_unix_s, item.revision_id) > after]
        page = listed[:size]
        return page, _encode_token(page[-1]) if len(listed) > size else ""

    def read(self, stored: StoredRevision) -> Iterator[bytes]:
        """The files' bytes in the manifest's order, hashed again while they are read.

        Raises:
            PacelineError: HASH_MISMATCH if a file on disk is no longer what was published.
        """
        for file in stored.revision.manifest.files:
            whole = hashlib.sha256()
            with (stored.folder / file.path).open("rb") as source:
                while chunk := source.read(CHUNK_BYTES):
                    whole.update(chunk)
                    yield chunk
            if whole.digest() != file.sha256:
                log.error("a stored file has changed", revision=stored.revision_id, file=file.path)
                raise PacelineError(
                    Reason.HASH_MISMATCH,
                    f"file {file.path!r} of this revision is damaged on the trainer's disk; publish it again elsewhere",
                    field=file.path,
                )


def _encode_token(item: StoredRevision) -> str:
    return json.dumps([-item.revision.published_unix_s, item.revision_id])


def _decode_token(token: str) -> tuple[float, str]:
    try:
        published, name = json.loads(token)
        return float(published), str(name)
    except (ValueError, TypeError) as error:
        raise _malformed("page_token", token[:80], "a next_page_token of this server") from error


def _write_all(file: int, data: memoryview) -> None:
    while data:
        data = data[os.write(file, data) :]
