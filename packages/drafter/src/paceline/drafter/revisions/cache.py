"""Revisions that were fetched, in folders named by their ids. Whole or not there; only what drafters need is kept."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import BinaryIO

from paceline.v1 import trainer_pb2
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.revision import MANIFEST, manifest_json, unusable
from paceline.wire.revision_folder import LIMITS, SIGNATURE, WEIGHTS, Revision, open_revision

KEPT = frozenset(LIMITS) - {MANIFEST, WEIGHTS}  # weights are there to train on from
MAX_BYTES = 8 << 30
MAX_REVISIONS = 4
ABANDONED_S = 86_400.0  # what a drafter that was killed had begun to fetch
_ID = re.compile(r"[0-9a-f]{64}")
_PARTIAL = ".fetching-"


class RevisionCache:
    """Keeps the revisions used last. Several drafters may share a folder: what one removes, another fetches again.

    Args:
        folder: made if it isn't there. Raises OSError if that can't be.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def open(self, revision_id: str) -> Revision | None:
        """One that is there; None if it isn't, or is damaged, in which case it is removed."""
        path = self._folder / revision_id
        if not path.is_dir():
            return None
        try:
            revision = open_revision(path)
            if revision.revision_id != revision_id:
                raise unusable("revision_id", revision.revision_id, revision_id)
        except PacelineError:
            self.drop(revision_id)
            return None
        os.utime(path)
        return revision

    def drop(self, revision_id: str) -> None:
        """Removes one."""
        shutil.rmtree(self._folder / revision_id, ignore_errors=True)

    def receive(self, message: trainer_pb2.Revision) -> Arrival:
        """Begins to store one; its id and manifest are checked (`check.check_announced`)."""
        return Arrival(message, Path(tempfile.mkdtemp(dir=self._folder, prefix=_PARTIAL)), self._folder)

    def prune(self) -> None:
        """Removes all but those used last."""
        found = [path for path in self._folder.iterdir() if _ID.fullmatch(path.name)]
        for path in sorted(found, key=_used_s, reverse=True)[MAX_REVISIONS:]:
            shutil.rmtree(path, ignore_errors=True)
        for path in self._folder.glob(f"{_PARTIAL}*"):
            if time.time() - _used_s(path) > ABANDONED_S:
                shutil.rmtree(path, ignore_errors=True)


def _used_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


class Arrival:
    """A revision while it arrives: `write` its bytes in the manifest's order, then `place` it; or `discard` it.

    Raises UNUSABLE_REVISION for files larger than any that a drafter reads, HASH_MISMATCH for one that isn't what the
    manifest says, MALFORMED for bytes that are too many or missing, and OSError.
    """

    def __init__(self, message: trainer_pb2.Revision, folder: Path, parent: Path) -> None:
        self._message = message
        self._folder = folder
        self._parent = parent
        self._remaining = list(message.manifest.files)
        self._received = 0
        self._hash = hashlib.sha256()
        self._file: BinaryIO | None = None
        total = sum(file.size for file in self._remaining)
        if total > MAX_BYTES:
            raise unusable(MANIFEST, f"of files of {total} bytes together", f"of at most {MAX_BYTES} bytes")
        for file in self._remaining:
            if file.path in KEPT and file.size > LIMITS[file.path]:
                raise unusable(file.path, f"{file.size} bytes", f"at most {LIMITS[file.path]} bytes")

    def write(self, chunk: bytes) -> None:
        """The next bytes; a chunk may end one file and begin others."""
        view = memoryview(chunk)
        while view:
            self._end_empty()
            if not self._remaining:
                raise PacelineError(Reason.MALFORMED, "the trainer sent more bytes than the manifest's files have")
            current = self._remaining[0]
            part = view[: current.size - self._received]
            self._hash.update(part)
            if current.path in KEPT:  # flat names that are known: nobody else chooses where something is written
                if self._file is None:
                    self._file = (self._folder / current.path).open("xb")
                self._file.write(part)
            self._received += len(part)
            view = view[len(part) :]
            if self._received == current.size:
                self._end_file()

    def _end_empty(self) -> None:
        while self._remaining and self._remaining[0].size == 0:
            if self._remaining[0].path in KEPT:
                (self._folder / self._remaining[0].path).touch(exist_ok=False)
            self._end_file()

    def _end_file(self) -> None:
        ended = self._remaining.pop(0)
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None
        if self._hash.digest() != ended.sha256:
            raise PacelineError(
                Reason.HASH_MISMATCH,
                f"{ended.path!r} came with another SHA-256 than its manifest says",
                field=ended.path,
                value=self._hash.hexdigest(),
                limit=ended.sha256.hex(),
            )
        self._hash, self._received = hashlib.sha256(), 0

    def place(self) -> Revision:
        """All has come; reads what it says of itself. Raises what `open_revision` does, too."""
        self._end_empty()
        if self._remaining:
            raise PacelineError(Reason.MALFORMED, "the trainer's stream ended before the revision did")
        (self._folder / MANIFEST).write_bytes(manifest_json(self._message.manifest).encode())
        if self._message.signature:
            (self._folder / SIGNATURE).write_bytes(self._message.signature)
        open_revision(self._folder)
        self._folder.chmod(0o755)
        target = self._parent / self._message.revision_id
        try:
            self._folder.rename(target)
        except OSError:
            if not target.is_dir():
                raise
            self.discard()  # another drafter was quicker
        return open_revision(target)

    def discard(self) -> None:
        """Removes what has come, unless it was placed."""
        if self._file is not None:
            self._file.close()
            self._file = None
        shutil.rmtree(self._folder, ignore_errors=True)
