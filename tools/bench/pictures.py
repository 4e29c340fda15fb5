"""Matplotlib's figures as SVG for a page: in the page's font and colours, light or dark, with ids of their own.

A figure is drawn in stand-in colours, which become the page's variables afterwards.
"""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK, SOFT, GRID, CARD, FAINT, PALE, ACCENT, BAD = (f"#0101{number:02x}" for number in range(8))
SERIES = tuple(f"#0102{number:02x}" for number in range(10))
_VARIABLES = {
    **{INK: "--ink", SOFT: "--soft", GRID: "--grid", CARD: "--card", FAINT: "--faint", PALE: "--pale"},
    **{ACCENT: "--accent", BAD: "--bad"},
    **{colour: f"--s{number}" for number, colour in enumerate(SERIES)},
}
_STAND_IN = re.compile("|".join(_VARIABLES), re.IGNORECASE)
_FONT = re.compile(r"font:\s*(?P<weight>(?:bold|[1-9]00)\s+)?(?P<size>[\d.]+px)[^;]*|font-family:[^;]*;?\s*")
_REFERENCE = re.compile(r"url\(#")
_LONGEST = 34  # signs of a name in a picture; tables have all of it

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "svg.hashsalt": "paceline",  # the same figure gives the same bytes
    "text.parse_math": False,  # a name with dollars is no formula
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "axes.titlecolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.linewidth": 0.8,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "ytick.left": False,
    "figure.facecolor": "none",
    "legend.frameon": False,
}


def colour_of(index: int) -> str:
    return SERIES[index % len(SERIES)]


def short(name: str) -> str:
    """A name that leaves room for the picture."""
    flat = " ".join(name.split())
    return flat if len(flat) <= _LONGEST else flat[: _LONGEST - 1] + "…"


def canvas(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """An empty figure, in inches, and its axes row by row. Call and draw within `rc_context(STYLE)`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flatten())


def svg_of(figure: Figure, prefix: str) -> str:
    """The figure as an element for HTML.

    Args:
        figure: drawn in `STYLE` and in this module's colours.
        prefix: of all ids in it; a word that no other picture of the page has.
    """
    out = io.StringIO()
    with rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # signs that the font for measuring lacks; the page's may have them
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(out.getvalue())
    for child in list(root):
        if _bare(child.tag) == "metadata":
            root.remove(child)
    for element in root.iter():
        element.tag = _bare(element.tag)
        element.attrib = {_bare(name): _restyled(_bare(name), value, prefix) for name, value in element.attrib.items()}
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    return ElementTree.tostring(root, encoding="unicode")


def _bare(name: str) -> str:
    """Without its namespace, which HTML knows by itself."""
    return name.rpartition("}")[2]


def _restyled(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return f"{prefix}-{value}"
    if name == "href":
        return value.replace("#", f"#{prefix}-", 1)
    if name == "style":
        value = _STAND_IN.sub(lambda found: f"var({_VARIABLES[found[0].lower()]})", value)
        value = _FONT.sub(_in_the_pages_font, value)
    return _REFERENCE.sub(f"url(#{prefix}-", value)


def _in_the_pages_font(found: re.Match[str]) -> str:
    """Size and weight are kept, the family is not."""
    size = f"font-size: {found['size']}" if found["size"] else ""
    return size + ("; font-weight: 600" if found["weight"] else "")


def whiskers(middles: Sequence[float], ranges: Sequence[Sequence[float]]) -> list[list[float]]:
    """For error bars. A figure of an interrupted run may lie outside of what its whole repeats came to."""
    return [
        [max(0.0, middle - least) for middle, (least, _greatest) in zip(middles, ranges, strict=True)],
        [max(0.0, greatest - middle) for middle, (_least, greatest) in zip(middles, ranges, strict=True)],
    ]
