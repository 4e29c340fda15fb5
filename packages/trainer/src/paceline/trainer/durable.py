"""What it takes for a file or a folder entry to survive power loss, and for users' text to stay private."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from paceline.wire.errors import PacelineError, Reason

PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
RETRY_AFTER_S = 10.0


class FolderInUse(Exception):
    """Another process has the folder."""


def make_private_folder(folder: Path) -> None:
    """Makes the folder and its parents; from then on its owner alone can look into it."""
    folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    folder.chmod(PRIVATE_FOLDER)


def lock_folder(folder: Path) -> int:
    """Takes the folder for this process until the returned descriptor is closed. Raises FolderInUse."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise FolderInUse(str(folder)) from error
    return lock


def write_all(file: int, data: bytes | memoryview) -> None:
    """Every byte: a single write may take fewer."""
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def write_synced(path: Path, data: bytes, mode: int = PRIVATE_FILE) -> None:
    """A new file whose content is on disk when this returns; its folder's entry is for `sync_folder`."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        write_all(file, data)
        os.fsync(file)
    finally:
        os.close(file)


def replace_synced(path: Path, data: bytes) -> None:
    """Old content or new, whenever the power fails."""
    temporary = path.with_name(f"{path.name}.new")
    write_synced(temporary, data)
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes new, renamed and deleted entries of a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def storage_error(error: OSError) -> PacelineError:
    """What a caller is told when the disk refuses: STORAGE_FULL if room is the trouble, else INTERNAL."""
    if error.errno in _FULL:
        return PacelineError(
            Reason.STORAGE_FULL,
            f"the trainer's disk is full ({error.strerror}); free some space, or lower --replay-max-mib",
            retry_after_s=RETRY_AFTER_S,
        )
    return PacelineError(Reason.INTERNAL, f"the trainer can't use its disk ({error.strerror}); its log says which file")
