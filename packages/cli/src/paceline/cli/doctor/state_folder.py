"""The folder for what is learned, and for logs: whether it can be written, and how much room there is."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from paceline.cli.doctor.finding import Finding, fail, ok, warn
from paceline.cli.doctor.settings import DoctorSettings

GIB = 1 << 30
LEAST, COMFORTABLE = GIB // 10, 2 * GIB  # the trainer's replay buffer takes 1 GiB at most by default
TRIAL_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Room:
    """trouble: why nothing can be written; free: bytes, if that is known."""

    folder: Path
    trouble: str
    free: int


def check(settings: DoctorSettings) -> list[Finding]:
    return [judge(look(settings.state_folder.expanduser().absolute()))]


def look(folder: Path) -> Room:
    """Writes a file and takes it away again, in the folder or in the nearest above it that is there."""
    there = next((one for one in (folder, *folder.parents) if os.path.lexists(one)), folder)
    if not there.is_dir():
        return Room(folder, f"{there} is no folder", 0)
    try:
        with tempfile.NamedTemporaryFile(dir=there, prefix=".paceline-doctor-") as file:
            file.write(bytes(TRIAL_BYTES))
            file.flush()
            os.fsync(file.fileno())
        return Room(folder, "", shutil.disk_usage(there).free)
    except OSError as error:
        return Room(folder, f"{there}: {(error.strerror or str(error)).lower()}", 0)


def judge(room: Room) -> Finding:
    if room.trouble:
        return fail(
            f"{room.folder} can't be written: {room.trouble}",
            "mend that, or choose another folder ('paceline up --state')",
        )
    shown = f"{room.folder}: {room.free / GIB:.1f} GiB free"
    if room.free < LEAST:
        return fail(shown, "make room, or choose another folder ('paceline up --state')")
    if room.free < COMFORTABLE:
        return warn(shown, "make room, or bound the trainer with --replay-max-mib; lessons alone may take 1 GiB")
    return ok(shown)
