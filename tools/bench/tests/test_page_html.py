"""Pages as HTML: well-formed, escaped, and in need of nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from page import Cell, Commands, Facts, Notice, Page, Picture, Points, Section, Table, Text, Tile, Tiles
from page_checks import Checked, shown
from page_html import block_html, clean, html_of

HOSTILE = "</title><script src='https://evil.example'>alert(1)</script><img onerror=\"x\" src=x>&lt;\x00\ud800\u202e"
SVG = '<svg viewBox="0 0 1 1"><path d="M 0 0"/></svg>'


def page_with(text: str) -> Page:
    blocks = [
        Text(text, quiet=True),
        Notice(text, "bad", text),
        Table(text, [text, text], [[text, Cell(text, "bad", True, text, 0.5)]], text, strong_rows=frozenset({0})),
        Facts([(text, text)]),
        Points([(text, text)]),
        Points([(text, text)], text),
        Commands([text]),
        Picture(SVG, text, text),
        Tiles([Tile(text, text, text)]),
    ]
    return Page(text, text, [Section("a", text, blocks, text)], text, blocks)


def test_every_text_of_every_block_is_escaped() -> None:
    page = html_of(page_with(HOSTILE))
    checked = Checked(page)
    assert not checked.faults
    assert checked.words.count("<script src=") >= 30
    assert "<script" not in page
    assert "onerror=" not in page.replace("onerror=&quot;", "")
    page.encode("utf-8")


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=40))
def test_any_text_leaves_the_page_whole(text: str) -> None:
    page = html_of(page_with(text), style="")
    assert not Checked(page).faults
    page.encode("utf-8")


def test_what_no_html_may_contain_is_replaced() -> None:
    assert clean("a\x00b\x1bc\ud800d\u202ee") == "a\ufffdb\ufffdc\ufffdd\ufffde"
    assert clean("tab\tline\nä–漢🙂") == "tab\tline\nä–漢🙂"


def test_the_style_is_within_and_knows_light_dark_and_paper() -> None:
    page = html_of(Page("t", "s", []))
    shown(page)
    for words in ("prefers-color-scheme: dark", "@media print", "default-src 'none'"):
        assert words in page


def test_a_table_has_its_figures_and_their_spread_in_their_row() -> None:
    row = [Cell("on"), Cell("12.5", below="11.0 – 13.0", share=0.25)]
    page = block_html(Table("speeds", ["system", "tokens/s"], [row]))
    assert '<th scope="row">on</th><td class="number shaded" style="--share:25%">12.5<small>11.0 – 13.0</small>' in page


def test_what_is_no_block_is_refused() -> None:
    with pytest.raises(TypeError, match="int"):
        block_html(3)  # type: ignore[arg-type]
