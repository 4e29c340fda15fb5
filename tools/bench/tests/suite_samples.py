"""Figures that the real commands wrote of a tiny model: `samples/`, and suites made of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from suite import PartOutcome, Record, Suite
from suite_results import PARTS, read_result

SAMPLES = Path(__file__).parent / "samples"


def sample(part: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((SAMPLES / f"{part}.json").read_text())
    return content


def done(part: str, content: dict[str, Any] | None = None, *, others: float | None = 0.01) -> PartOutcome:
    known = sample(part) if content is None else content
    return PartOutcome(part, "done", "", Record(part=part, others=others, cores=2), read_result(part, known), known)


def whole_suite(**changed: dict[str, Any]) -> Suite:
    """All parts; `changed` replaces some fields of a part's figures."""
    return Suite([done(part, {**sample(part), **changed.get(part, {})}) for part in PARTS], "bench --quick")


def copied(folder: Path) -> Path:
    """The samples as a working folder without records."""
    shutil.copytree(SAMPLES, folder)
    return folder
