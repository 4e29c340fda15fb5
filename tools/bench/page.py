"""What a report consists of, before anybody thinks of HTML: sections of paragraphs, tables, pictures and the like.

All texts are plain: whoever renders them escapes them. Only a picture brings markup, and only our own (`pictures.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Tone = Literal["good", "bad", "warn", "plain"]


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph; `quiet` for what explains rather than says."""

    text: str
    quiet: bool = False


@dataclass(frozen=True, slots=True)
class Notice:
    """What must not be overlooked."""

    text: str
    tone: Tone = "warn"
    details: str = ""  # such as the last lines of a log


@dataclass(frozen=True, slots=True)
class Cell:
    """One of a table. `share` in [0, 1] shades it, `below` stands under the text in small print."""

    text: str
    tone: Tone = "plain"
    strong: bool = False
    below: str = ""
    share: float | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells; the first column is text and the others are figures, unless `wordy` names them."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    note: str = ""
    wordy: frozenset[int] = frozenset({0})
    strong_rows: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and what they stand for."""

    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Points:
    """A list; each has a heading and what is said of it. With a title it stands out."""

    points: Sequence[tuple[str, str]]
    title: str = ""


@dataclass(frozen=True, slots=True)
class Commands:
    """Lines to type."""

    lines: Sequence[str]


@dataclass(frozen=True, slots=True)
class Picture:
    """An SVG of our own making, what it shows in words, and what is written below it."""

    svg: str
    alt: str
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Tile:
    """A figure that is seen first. `below` says its spread, and of how many runs."""

    label: str
    value: str
    below: str
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True)
class Tiles:
    tiles: Sequence[Tile]


Block = Text | Notice | Table | Facts | Points | Commands | Picture | Tiles


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the report. `anchor` is a word of ours, for links within the page."""

    anchor: str
    title: str
    blocks: Sequence[Block]
    about: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    title: str
    subtitle: str
    sections: Sequence[Section]
    footer: str = ""
    top: Sequence[Block] = field(default_factory=tuple)  # before the contents
