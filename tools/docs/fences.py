"""Fenced code blocks of Markdown files, and what the comment above each says of how it is kept true; pure.

    <!-- file: docs/examples/grpc_client.py -->   the block is that file, or lines of it; a test runs every such file
    <!-- run by: tools/e2e/test_readme.py -->     that test takes the block from the page and runs it
    <!-- settings of: paceline-router serve -->   it is a file for --config of that command (or `token file`)
    <!-- not run: WHY -->                         nothing checks it

A block in `sh` needs no comment: its command lines are checked against the programs (see `shell_lines`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

SHELL = frozenset({"sh", "bash", "shell"})
KINDS = ("file", "run by", "settings of", "not run")

_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,}|~{3,})(?P<language>[\w+-]*).*$")
_MARK = re.compile(rf"^\s*<!-- (?P<kind>{'|'.join(KINDS)}): (?P<value>.+?) -->\s*$")


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        line: of its opening fence, from 1.
        kind: one of KINDS, or empty without a mark.
        value: what the mark says after the colon.
    """

    line: int
    language: str
    text: str
    kind: str = ""
    value: str = ""

    @property
    def is_shell(self) -> bool:
        return self.language in SHELL


def blocks_of(page: str) -> Iterator[Block]:
    """All blocks in order. Raises ValueError if one isn't closed."""
    lines = page.splitlines()
    at = 0
    while at < len(lines):
        fence = _FENCE.match(lines[at])
        if fence is None:
            at += 1
            continue
        end = _end_of(lines, at, fence["ticks"])
        indent = len(fence["indent"])
        text = "".join(f"{line[indent:]}\n" for line in lines[at + 1 : end])
        mark = _MARK.match(lines[at - 1]) if at else None
        yield Block(at + 1, fence["language"], text, *((mark["kind"], mark["value"]) if mark else ()))
        at = end + 1


def outside_blocks(page: str) -> str:
    """The page with its blocks left blank: line numbers stay."""
    lines = page.splitlines()
    for block in blocks_of(page):
        for at in range(block.line - 1, block.line + block.text.count("\n") + 1):
            lines[at] = ""
    return "\n".join(lines)


def _end_of(lines: list[str], opening: int, ticks: str) -> int:
    for at in range(opening + 1, len(lines)):
        if lines[at].strip() == ticks:
            return at
    raise ValueError(f"line {opening + 1}: the block isn't closed")
