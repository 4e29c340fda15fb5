"""A revision while it arrives: every file is checked and on disk before anybody can see it."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from pathlib import Path

from paceline.trainer.durable import PRIVATE_FILE, PRIVATE_FOLDER, sync_folder, write_all, write_synced
from paceline.v1 import trainer_pb2
from paceline.wire.errors import PacelineError, Reason


class Incoming:
    """Feed it `write` in the manifest's order, then `place` it; or `discard` it. Both the store and `fetch` use it.

    A publisher may leave at any moment: `discard` waits for the thread that writes or places, so that nothing is ever
    removed from a folder that is becoming a revision.

    Args:
        manifest: checked by `check_manifest`; its paths are trusted here.
        folder: to make; its parent exists.
        file_mode, folder_mode: permissions; those of private files unless told.

    `write` and the constructor raise HASH_MISMATCH for a file that isn't what the manifest says, MALFORMED for bytes
    beyond the last file, and OSError.
    """

    def __init__(
        self,
        manifest: trainer_pb2.RevisionManifest,
        folder: Path,
        *,
        file_mode: int = PRIVATE_FILE,
        folder_mode: int = PRIVATE_FOLDER,
    ) -> None:
        self.manifest = manifest
        self.folder = folder
        self._file_mode = file_mode
        self._folder_mode = folder_mode
        self._remaining = list(manifest.files)
        self._hash = hashlib.sha256()
        self._received = 0
        self._file: int | None = None
        self._ended = False
        self._lock = threading.Lock()
        folder.mkdir(mode=folder_mode)
        try:
            self._end_files()
        except BaseException:
            self.discard()
            raise

    def write(self, chunk: bytes) -> None:
        """The next bytes; a chunk may end one file and begin others."""
        with self._lock:
            self._check_open()
            self._write(memoryview(chunk))

    def _check_open(self) -> None:
        if self._ended:
            raise PacelineError(Reason.MALFORMED, "the stream has ended already; publish again")

    def _write(self, view: memoryview) -> None:
        while view:
            if not self._remaining:
                raise PacelineError(
                    Reason.MALFORMED,
                    "more bytes came than the manifest's files have; send what it says",
                    field="chunk",
                )
            part = view[: self._remaining[0].size - self._received]
            if self._file is None:
                self._file = self._create(self._remaining[0].path)
            write_all(self._file, part)
            self._hash.update(part)
            self._received += len(part)
            view = view[len(part) :]
            self._end_files()

    def _create(self, path: str) -> int:
        target = self.folder / path
        for parent in reversed(target.relative_to(self.folder).parents[:-1]):
            (self.folder / parent).mkdir(mode=self._folder_mode, exist_ok=True)
        return os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, self._file_mode)

    def _end_files(self) -> None:
        """Ends every file that has all its bytes, empty ones included."""
        while self._remaining and self._received == self._remaining[0].size:
            expected = self._remaining.pop(0)
            if self._file is None:
                self._file = self._create(expected.path)
            os.fsync(self._file)
            self._close()
            found = self._hash
            self._hash = hashlib.sha256()
            self._received = 0
            if found.digest() != expected.sha256:
                raise PacelineError(
                    Reason.HASH_MISMATCH,
                    f"file {expected.path!r} has another SHA-256 than its manifest says; send it again",
                    field=expected.path,
                    value=found.hexdigest(),
                    limit=expected.sha256.hex(),
                )

    def check_complete(self) -> None:
        """Raises MALFORMED if bytes are missing."""
        if self._remaining:
            missing = self._remaining[0]
            raise PacelineError(
                Reason.MALFORMED,
                f"the stream ended with {self._received} of {missing.size} bytes of {missing.path!r}; send all of it",
                field=missing.path,
                value=self._received,
                limit=missing.size,
            )

    def place(self, target: Path, beside: dict[str, bytes] | None = None) -> None:
        """Renames the complete folder to `target`, with more files `beside` its own; durable when this returns.

        Raises MALFORMED if bytes are missing or it was discarded, or OSError.
        """
        with self._lock:
            self._check_open()
            self.check_complete()
            for name, data in (beside or {}).items():
                write_synced(self.folder / name, data, self._file_mode)
            for folder in (self.folder, *(path for path in self.folder.rglob("*") if path.is_dir())):
                sync_folder(folder)
            self.folder.rename(target)
            self._ended = True
            sync_folder(target.parent)

    def discard(self) -> None:
        """Removes what has arrived; harmless once it was placed or discarded."""
        with self._lock:
            if not self._ended:
                self._ended = True
                self._close()
                shutil.rmtree(self.folder, ignore_errors=True)

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
