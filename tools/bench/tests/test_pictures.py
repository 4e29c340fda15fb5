"""Pictures for pages: the page's colours and font, ids of their own, and no markup from names."""

from __future__ import annotations

import re

from matplotlib import rc_context
from page_checks import Checked
from pictures import ACCENT, STYLE, canvas, colour_of, short, svg_of, whiskers

HOSTILE = "$x_{$ </text><script>alert(1)</script> 漢\n🙂 &amp;"


def drawn(prefix: str, label: str = "one") -> str:
    with rc_context(STYLE):
        figure, (axes,) = canvas(4.0, 2.0)
        axes.plot([1, 2], [3, 4], color=ACCENT, label=label, marker="o")
        axes.set_title(label)
        axes.legend()
        return svg_of(figure, prefix)


def test_colours_and_font_are_the_pages() -> None:
    svg = drawn("a")
    assert "var(--accent)" in svg
    assert "var(--soft)" in svg
    assert "#0101" not in svg
    assert "#0102" not in svg
    assert "DejaVu" not in svg
    assert "font-size: 9px" in svg
    styles = {part.strip() for style in re.findall(r'<text[^>]* style="([^"]*)"', svg) for part in style.split(";")}
    known = {"font-size", "font-weight", "text-anchor", "fill", "opacity", ""}
    assert {part.partition(":")[0] for part in styles} <= known
    assert "text-anchor: middle" in styles
    assert not any("None" in part for part in styles)


def test_two_pictures_of_a_page_share_no_ids() -> None:
    together = f"<div>{drawn('a')}{drawn('b')}</div>"
    assert not Checked(together).faults
    assert "metadata" not in together
    assert "http" not in together


def test_names_are_text_and_no_formula() -> None:
    svg = drawn("a", HOSTILE)
    checked = Checked(svg)
    assert not checked.faults
    assert "<script>alert(1)</script>" in checked.words


def test_the_same_figure_gives_the_same_bytes() -> None:
    assert drawn("a") == drawn("a")


def test_long_names_leave_room() -> None:
    assert short("a\nb") == "a b"
    assert len(short("x" * 500)) == 34
    assert colour_of(3) == colour_of(13)


def test_whiskers_reach_from_the_figure_to_the_extremes() -> None:
    assert whiskers([2.0, 5.0], [[1.5, 3.0], [6.0, 7.0]]) == [[0.5, 0.0], [1.0, 2.0]]
