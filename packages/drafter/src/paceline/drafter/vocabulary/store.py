"""What bridges have learned, on disk, so that a drafter that is started again has it."""

from __future__ import annotations

import os
from pathlib import Path

import structlog

from paceline.drafter.vocabulary.base import BridgeKind
from paceline.drafter.vocabulary.ngram_cache import NgramCache
from paceline.wire.errors import PacelineError

log = structlog.get_logger()

MAX_BYTES = 64 * 1024 * 1024


class BridgeStore:
    """A folder with one file for each pair of vocabularies: token ids, no text of anybody's.

    Args:
        folder: made if it isn't there.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def restore(self, kind: BridgeKind) -> None:
        """Gives a bridge what was saved for it. A file that is damaged is named in the log and left alone."""
        path = self._path(kind)
        if path is None or not path.exists():
            return
        try:
            if path.stat().st_size > MAX_BYTES:
                raise OSError(f"larger than {MAX_BYTES} bytes")
            kind.restore(path.read_text(encoding="utf-8"))  # type: ignore[attr-defined]
        except (OSError, UnicodeDecodeError, PacelineError) as error:
            log.warning("what a bridge had learned can't be read; it begins anew", path=str(path), why=str(error))

    def save(self, kind: BridgeKind) -> None:
        """Whole or not at all: whoever reads sees the old file or the new one."""
        path = self._path(kind)
        if path is None:
            return
        partial = path.with_suffix(".partial")
        try:
            with partial.open("w", encoding="utf-8") as file:
                file.write(kind.save())  # type: ignore[attr-defined]
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except OSError as error:
            log.warning("what a bridge has learned can't be kept", path=str(path), why=str(error))

    def _path(self, kind: BridgeKind) -> Path | None:
        """None for bridges that learn nothing."""
        if not isinstance(kind, NgramCache):
            return None
        return self._folder / f"{kind.target.content_hash[:32]}-{kind.draft.content_hash[:32]}.json"
