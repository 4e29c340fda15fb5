"""The repository's Markdown, as its checks find it."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(os.environ["RUNFILES_DIR"]) / "paceline"
PATTERNS = ("*.md", "docs/**/*.md", "packages/**/*.md", "protos/*.md", "tools/**/*.md")
# What was, not what is: flags that are gone stay in them.
HISTORY = ("docs/log.md", "CHANGELOG.md")


def all_pages() -> list[Path]:
    """Every Markdown file, relative to ROOT."""
    return sorted({path.relative_to(ROOT) for pattern in PATTERNS for path in ROOT.glob(pattern)})


def present_pages() -> list[Path]:
    """Those that say how things are."""
    return [page for page in all_pages() if not page.as_posix().endswith(HISTORY)]


def read(page: Path) -> str:
    return (ROOT / page).read_text()
