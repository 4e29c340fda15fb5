"""How policies did: tables, notes and a picture."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from report import STYLE
from rich.table import Table
from routing_run import BEST_FIXED
from routing_scenes import SCENES

COLOURS = {
    "linucb": "#1769aa",
    "ucb": "#d9822b",
    "thompson": "#3a8f4d",
    "exp3": "#b8433f",
    "hedge": "#7d5ba6",
    "epsilon": "#8a8a8a",
}
OTHER = "#444444"
COLUMNS = 4


def tables(report: dict[str, Any]) -> Iterator[Table]:
    """Regret against the oracle, by scene and policy."""
    scenes = report["scenes"]
    table = Table(title=f"regret against the oracle after {report['segments']:,} segments, %", **STYLE)
    table.add_column("policy", no_wrap=True)
    for scene in scenes:
        table.add_column(scene.replace("_", " "), justify="right")
    for policy in next(iter(scenes.values())):
        default = policy == report["default_policy"]
        cells = (_cell(figures[policy]) for figures in scenes.values())
        table.add_row(f"{policy} (default)" if default else policy, *cells, style="bold" if default else None)
    yield table


def notes(report: dict[str, Any]) -> Iterator[str]:
    """What to know beside the table."""
    yield (
        f"medians of {len(report['seeds'])} seeds; the oracle knows the best arm of each segment, '{BEST_FIXED}' is "
        "the arm that would have been best for all of them; hedge is told estimates of every arm, where "
        "verifiers send those of single drafters, as often as they get round to it"
    )
    for scene in SCENES:
        if scene.name in report["scenes"]:
            yield f"{scene.name.replace('_', ' ')}: {scene.about}"
    liar = report.get("liar")
    if liar:
        yield (
            f"the liar drafts for {liar['share_when_time_is_measured']:.1%} of segments; if its reports were believed, "
            f"for {liar['share_when_reports_are_believed']:.1%}, at a regret of "
            f"{liar['regret_when_reports_are_believed']:.1%}"
        )
    if "decision_ms_p99" in report:
        times = ", ".join(f"{name} {ms:.2f}" for name, ms in report["decision_ms_p99_by_policy"].items())
        yield f"99 % of decisions between 32 arms take at most, in ms: {times}"


def draw(report: dict[str, Any], path: Path) -> None:
    """Writes a PNG: regret so far, over segments, a picture for each scene."""
    curves = {name: found for name, found in report["curves"].items() if name != "segments"}
    columns = max(1, min(COLUMNS, len(curves)))
    rows = max(1, math.ceil(len(curves) / columns))
    figure = Figure(figsize=(4.2 * columns, 3.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, (scene, by_policy) in zip(grid, curves.items(), strict=False):
        for policy, values in by_policy.items():
            default = policy == report["default_policy"]
            percent = [100.0 * value for value in values]
            style = {"color": COLOURS.get(policy, OTHER), "linewidth": 2.2 if default else 1.1}
            axes.plot(report["curves"]["segments"], percent, label=policy, **style)
        fixed = 100.0 * report["scenes"][scene][BEST_FIXED]["regret"]
        axes.axhline(fixed, color="#000000", linewidth=0.8, linestyle=":", label=BEST_FIXED)
        axes.set_title(scene.replace("_", " "), fontsize=10)
        highest = max(100.0 * max(values[3:] or values) for values in by_policy.values())  # the very first are noise
        axes.set_ylim(0.0, 1.2 * max(8.0, fixed, highest))
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[len(curves) :]:
        axes.set_visible(False)
    if curves:
        grid[0].legend(frameon=False, fontsize=8)
        figure.supxlabel("segments")
        figure.supylabel("regret so far against the oracle, %")
    figure.savefig(path, format="png", dpi=150)


def _cell(figures: dict[str, Any]) -> str:
    spread = figures.get("spread")
    within = f" ({100 * spread[0]:.1f}-{100 * spread[1]:.1f})" if spread and spread[0] != spread[1] else ""
    return f"{100 * figures['regret']:.1f}{within}"
