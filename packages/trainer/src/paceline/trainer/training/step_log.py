"""The curve of a run: a file of JSON lines, one for each of some steps."""

from __future__ import annotations

import json
import time
from pathlib import Path

LOG = "log.jsonl"


class StepLog:
    """Appends to the folder's log; to none in processes that only help."""

    def __init__(self, folder: Path | None) -> None:
        self._path = folder / LOG if folder else None
        self._begun_s = time.monotonic()

    def add(self, step: int, **values: float) -> None:
        """A line; seconds are since this process began, to six digits like everything else."""
        if self._path is None:
            return
        line = {"step": step, "seconds": time.monotonic() - self._begun_s, **values}
        short = {name: value if isinstance(value, int) else float(f"{value:.6g}") for name, value in line.items()}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(short) + "\n")

    def cut(self, step: int) -> None:
        """Forgets steps after this one, which will be taken again; also a line that a crash cut off."""
        if self._path is None or not self._path.exists():
            return
        kept = []
        for line in self._path.read_text(encoding="utf-8").splitlines(keepends=True):
            if not line.endswith("\n") or json.loads(line)["step"] > step:
                break
            kept.append(line)
        self._path.write_text("".join(kept), encoding="utf-8")
