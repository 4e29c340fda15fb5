"""The report as a picture: a bar for each system, by group."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from figures import LOOKUP, OFF, ON, PLAIN
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLOURS = {PLAIN: "#b8b8b8", LOOKUP: "#7a7a7a", OFF: "#8ec5e8", ON: "#1769aa"}
LABELS = {
    PLAIN: "transformers, plain",
    LOOKUP: "transformers, prompt lookup",
    OFF: "Paceline, speculation off",
    ON: "Paceline, speculation on",
}
GROUP_WIDTH = 0.84


def draw(report: dict[str, Any], path: Path) -> None:
    """Writes a PNG."""
    speeds: dict[str, dict[str, float]] = report["tokens_per_second"]
    spread: dict[str, dict[str, list[float]]] = report["spread"]["tokens_per_second"]
    groups = list(next(iter(speeds.values())))
    figure = Figure(figsize=(11, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    width = GROUP_WIDTH / len(speeds)
    for index, (system, of_group) in enumerate(speeds.items()):
        offset = (index - (len(speeds) - 1) / 2) * width
        heights = [of_group[group] for group in groups]
        # An interrupted run's figure may lie outside of what its whole repeats came to.
        below = [max(0.0, of_group[group] - spread[system][group][0]) for group in groups]
        above = [max(0.0, spread[system][group][1] - of_group[group]) for group in groups]
        bars = axes.bar(
            [at + offset for at in range(len(groups))],
            heights,
            width,
            yerr=[below, above] if report["repeat"] > 1 else None,
            label=LABELS[system],
            color=COLOURS[system],
            error_kw={"ecolor": "#444444", "elinewidth": 0.8},
        )
        axes.bar_label(bars, fmt="%.0f", fontsize=7, padding=2)
    axes.set_xticks(range(len(groups)), [group.replace("_", " ") for group in groups])
    axes.set_ylabel("tokens per second, prefill included")
    axes.set_title(
        f"{report['model']}, {report['dtype']}: {report['questions']} questions, "
        f"up to {report['max_new_tokens']} new tokens\n{report['machine']['processor']}, "
        f"{report['machine']['cores']} cores",
        fontsize=10,
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=len(speeds), loc="upper left", bbox_to_anchor=(0, -0.08))
    figure.savefig(path, format="png", dpi=150)
