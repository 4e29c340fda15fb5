"""What mixes of drafters brought, as a picture: acceptance by depth, and tokens per step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

SHOWN_DEPTHS = 16
FEWEST = 10  # candidates that a share must be of to be drawn
COLOURS = ("#1769aa", "#d9822b", "#3d9a50", "#b03a48", "#7a5ab5", "#8a6d52", "#c65fa1", "#6e6e6e", "#a8a032", "#35a7b8")


def draw(report: dict[str, Any], path: Path) -> None:
    """Writes a PNG."""
    mixes: dict[str, dict[str, Any]] = report["mixes"]
    colours = [COLOURS[index % len(COLOURS)] for index in range(len(mixes))]
    figure = Figure(figsize=(14, max(4.5, 1.5 + 0.4 * len(mixes))), layout="constrained")
    FigureCanvasAgg(figure)
    shares, reach, steps = figure.subplots(1, 3)
    for mix, colour in zip(mixes.values(), colours, strict=True):
        _line(shares, _well_known(mix), colour)
        _line(reach, mix["tokens_by_depth"][:SHOWN_DEPTHS], colour)
    shares.set_ylabel(f"right, of those verified below right ones ({FEWEST} or more)")
    reach.set_ylabel("share of steps that got so deep")
    for axes in (shares, reach):
        axes.set_xlabel("depth below the last committed token")
        axes.set_ylim(bottom=0.0)
        axes.xaxis.get_major_locator().set_params(integer=True)
    bars = steps.barh(list(mixes), [mix["tokens_per_step"] for mix in mixes.values()], color=colours)
    steps.bar_label(bars, fmt="%.2f", padding=3)
    steps.axvline(1.0, color="#444444", linewidth=0.8)
    steps.invert_yaxis()
    steps.set_xlabel("tokens per step (1: no speculation)")
    for axes in (shares, reach, steps):
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"{report['model']}, {report['dtype']}: {report['questions']} questions, "
        f"up to {report['max_new_tokens']} new tokens",
        fontsize=10,
    )
    figure.savefig(path, format="png", dpi=150)


def _well_known(mix: dict[str, Any]) -> list[float]:
    """Shares down to the first depth that hardly any candidate came to."""
    tested = mix["tested_by_depth"][:SHOWN_DEPTHS]
    known = next((depth for depth, count in enumerate(tested) if count < FEWEST), len(tested))
    shares: list[float] = mix["acceptance_by_depth"][:known]
    return shares


def _line(axes: Axes, values: Sequence[float], colour: str) -> None:
    axes.plot(range(1, len(values) + 1), values, marker="o", markersize=3, color=colour)
