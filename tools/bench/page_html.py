"""A page as HTML: one file, no scripts, nothing fetched, and every text escaped."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import singledispatch
from html import escape
from pathlib import Path

from page import Block, Cell, Commands, Facts, Notice, Page, Picture, Points, Section, Table, Text, Tiles

STYLE = Path(__file__).with_name("page.css")
_UNFIT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u202a-\u202e\u2066-\u2069]")


def clean(text: str) -> str:
    """Without what no HTML may contain, and without signs that turn the direction of what follows them."""
    return _UNFIT.sub("\ufffd", text)


def html_of(page: Page, style: str | None = None) -> str:
    """The whole file."""
    links = "".join(f'<a href="#{section.anchor}">{_text(section.title)}</a>' for section in page.sections)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # Whatever may have slipped in, a browser that obeys this fetches and runs nothing.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        'img-src data:">\n<meta name="color-scheme" content="light dark">\n'
        f"<title>{_text(page.title)}</title>\n<style>\n{STYLE.read_text() if style is None else style}</style>\n"
        f"</head>\n<body>\n<header>\n<h1>{_text(page.title)}</h1>\n<p>{_text(page.subtitle)}</p>\n</header>\n<main>\n"
        f"{''.join(map(block_html, page.top))}\n<nav>{links}</nav>\n"
        f"{''.join(map(_section, page.sections))}</main>\n<footer>{_text(page.footer)}</footer>\n</body>\n</html>\n"
    )


def _section(section: Section) -> str:
    about = f'<p class="about">{_text(section.about)}</p>\n' if section.about else ""
    blocks = "".join(map(block_html, section.blocks))
    return f'<section id="{section.anchor}">\n<h2>{_text(section.title)}</h2>\n{about}{blocks}</section>\n'


@singledispatch
def block_html(block: Block) -> str:
    raise TypeError(f"no way to write a {type(block).__name__}")


def _writes(kind: type) -> Callable[[Callable[..., str]], Callable[..., str]]:
    return block_html.register(kind)


@_writes(Text)
def _(block: Text) -> str:
    return f"<p{_class('quiet' if block.quiet else '')}>{_text(block.text)}</p>\n"


@_writes(Notice)
def _(block: Notice) -> str:
    details = f"<pre>{_text(block.details)}</pre>" if block.details else ""
    return f'<div class="notice {block.tone}" role="note"><p>{_text(block.text)}</p>{details}</div>\n'


@_writes(Table)
def _(block: Table) -> str:
    head = "".join(
        f'<th scope="col"{_class("" if at in block.wordy else "number")}>{_text(name)}</th>'
        for at, name in enumerate(block.head)
    )
    rows = "".join(
        f"<tr{_class('strong' if number in block.strong_rows else '')}>"
        + "".join(_cell(cell, at, at in block.wordy) for at, cell in enumerate(row))
        + "</tr>\n"
        for number, row in enumerate(block.rows)
    )
    note = f'<p class="quiet">{_text(block.note)}</p>' if block.note else ""
    return (
        f'<div class="table"><table>\n<caption>{_text(block.caption)}</caption>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}</tbody>\n</table>{note}</div>\n"
    )


def _cell(cell: Cell | str, at: int, wordy: bool) -> str:
    known = cell if isinstance(cell, Cell) else Cell(cell)
    classes = [known.tone if known.tone != "plain" else "", "" if wordy else "number", "strong" * known.strong]
    shade = "" if known.share is None else f' style="--share:{100 * min(1.0, max(0.0, known.share)):.0f}%"'
    if shade:
        classes.append("shaded")
    below = f"<small>{_text(known.below)}</small>" if known.below else ""
    tag, scope = ("th", ' scope="row"') if at == 0 else ("td", "")
    return f"<{tag}{scope}{_class(' '.join(filter(None, classes)))}{shade}>{_text(known.text)}{below}</{tag}>"


@_writes(Facts)
def _(block: Facts) -> str:
    return "<dl>" + "".join(f"<dt>{_text(n)}</dt><dd>{_text(value)}</dd>" for n, value in block.pairs) + "</dl>\n"


@_writes(Points)
def _(block: Points) -> str:
    points = (f"<li><strong>{_text(title)}</strong> {_text(words)}</li>" for title, words in block.points)
    listed = f"<ul>{''.join(points)}</ul>"
    if not block.title:
        return f"{listed}\n"
    return f'<div class="notice plain"><p><strong>{_text(block.title)}</strong></p>{listed}</div>\n'


@_writes(Commands)
def _(block: Commands) -> str:
    return "".join(f"<pre><code>{_text(line)}</code></pre>\n" for line in block.lines)


@_writes(Picture)
def _(block: Picture) -> str:
    caption = f"<figcaption>{_text(block.caption)}</figcaption>" if block.caption else ""
    return f'<figure><div role="img" aria-label="{_text(block.alt)}">{block.svg}</div>{caption}</figure>\n'


@_writes(Tiles)
def _(block: Tiles) -> str:
    tiles = (
        f'<div class="tile {tile.tone}"><span>{_text(tile.label)}</span><b>{_text(tile.value)}</b>'
        f"<small>{_text(tile.below)}</small></div>"
        for tile in block.tiles
    )
    return f'<div class="tiles">{"".join(tiles)}</div>\n'


def _text(text: str) -> str:
    return escape(clean(text), quote=True)


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""
