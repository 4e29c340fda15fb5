"""Writes the pages that are made of code: docs/protocol.md and docs/settings.md.

./bazelw run //tools/docs:generate        or        python tools/docs/generate.py
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from protocol_reference import protocol_reference
from settings_reference import settings_reference


def pages(root: Path) -> Iterator[tuple[str, str]]:
    """Each page's path below `root` (the repository), and its text."""
    yield "docs/protocol.md", protocol_reference(root / "protos")
    yield "docs/settings.md", settings_reference()


def main(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit code 1 if a page would change.")] = False,
) -> None:
    """Writes docs/protocol.md and docs/settings.md of the protos and the settings as they are now."""
    # `bazel run` starts this in its own folder and names the one with the sources.
    root = Path(os.environ.get("BUILD_WORKSPACE_DIRECTORY") or Path(__file__).resolve().parents[2])
    stale = [(path, text) for path, text in pages(root) if _text_of(root / path) != text]
    for path, text in stale:
        if not check:
            (root / path).write_text(text)
        print(f"{path}: {'would change' if check else 'written'}")
    if not stale:
        print("nothing changed")
    if check and stale:
        raise typer.Exit(1)


def _text_of(path: Path) -> str:
    return path.read_text() if path.exists() else ""


if __name__ == "__main__":
    typer.run(main)
