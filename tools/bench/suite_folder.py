"""The working folder of a suite: each part's figures and record as files, so that what was measured outlives a crash.

`suite.json` says what was asked for. Each part, such as speed, has `speed.json` (what its tool wrote),
`speed.record.json` (how it was run and how it ended) and `speed.log`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from result_base import Known, Result
from rounds import BenchError
from suite import Asked, PartOutcome, Record, Suite
from suite_results import PARTS, read_result

MOST_BYTES = 64 * 2**20  # of a file
SHOWN_LINES = 12
SHOWN_BYTES = 64 * 2**10  # of a log's end, in which those lines are looked for

K = TypeVar("K", bound=Known)


@dataclass(frozen=True, slots=True)
class Folder:
    """Where a suite's parts are kept."""

    path: Path

    def figures(self, part: str) -> Path:
        return self.path / f"{part}.json"

    def record(self, part: str) -> Path:
        return self.path / f"{part}.record.json"

    def log(self, part: str) -> Path:
        return self.path / f"{part}.log"

    @property
    def asked(self) -> Path:
        return self.path / "suite.json"

    def keep(self, record: Record) -> None:
        _keep(self.record(record.part), record)

    def keep_asked(self, asked: Asked) -> None:
        _keep(self.asked, asked)

    def last_words(self, part: str) -> str:
        """The last lines of a part's log."""
        try:
            with self.log(part).open("rb") as log:
                log.seek(0, os.SEEK_END)
                log.seek(max(0, log.tell() - SHOWN_BYTES))
                lines = log.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join([line.rstrip() for line in lines if line.strip()][-SHOWN_LINES:])

    def outcome(self, part: str, otherwise: str) -> PartOutcome:
        """What is there of a part; `otherwise` says why it was not run if nothing is."""
        record = self._record(part)
        path = self.figures(part)
        if not path.exists():
            if record is None:
                return PartOutcome(part, "not run", otherwise)
            return PartOutcome(part, "failed", record.error or "it left no figures", record)
        try:
            content = read_json(path)
            result = read_result(part, content)
        except BenchError as error:
            return PartOutcome(part, "failed", str(error), record)
        why = _why_failed(result, record)
        return PartOutcome(part, "failed" if why else "done", why, record, result, content)

    def _record(self, part: str) -> Record | None:
        return _read(self.record(part), Record)


def _keep(path: Path, value: Known) -> None:
    """Whole or not at all."""
    beside = path.with_suffix(".new")
    beside.write_text(value.model_dump_json(indent=2) + "\n")
    os.replace(beside, path)


def _read(path: Path, kind: type[K]) -> K | None:
    """What is kept there, None if nothing is. BenchError if it can't be read."""
    if not path.exists():
        return None
    try:
        return kind.model_validate(read_json(path))
    except ValidationError as error:
        raise BenchError(f"{path}: {error.errors()[0]['msg'][:300]}; delete it to go on without it") from None


def _why_failed(result: Result, record: Record | None) -> str:
    if record and record.error:
        return record.error
    return "" if result.complete else "it ended before everything was measured"


def kept(folder: Folder, part: str, command: Sequence[str]) -> PartOutcome | None:
    """The part's outcome if it was measured to its end with this command before; None if it is to be run.

    Raises:
        BenchError: it was measured with another command, which is not to be lost.
    """
    outcome = folder.outcome(part, "")
    if outcome.state != "done" or outcome.record is None:
        return None
    if outcome.record.command[:-1] != list(command)[:-1]:  # the folder may have been moved
        raise BenchError(
            f"--work {folder.path} has {part} measured with other options; name another folder, or the same options"
        )
    return outcome


def read_json(path: Path) -> Mapping[str, Any]:
    """An object of a file that may be anything. BenchError names the file."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise BenchError(f"{path} has more than {MOST_BYTES >> 20} MiB, which no measurement writes")
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BenchError(f"{path} can't be read: {str(error)[:200] or type(error).__name__}") from None
    if not isinstance(content, dict):
        raise BenchError(f"{path} holds no JSON object")
    return content


def read_folder(folder: Folder) -> Suite:
    """A suite of files that somebody left there. BenchError if there is none."""
    parts = [folder.outcome(part, f"{folder.path} has no {part}.json") for part in PARTS]
    if all(part.state == "not run" for part in parts):
        names = ", ".join(f"{part}.json" for part in PARTS)
        raise BenchError(f"--from {folder.path}: has none of {names}")
    asked = _read(folder.asked, Asked) or Asked()
    return Suite(parts, asked.command, asked.notes)
