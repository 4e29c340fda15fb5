"""Pictures of speeds: by system and group, and how much the ratio differs between repeats and between questions."""

from __future__ import annotations

from collections.abc import Mapping

from figures import LOOKUP, OFF, ON, PLAIN
from matplotlib import rc_context
from pictures import ACCENT, CARD, FAINT, INK, PALE, SOFT, STYLE, canvas, colour_of, short, svg_of, whiskers
from result_speed import Speed

COLOURS = {PLAIN: FAINT, LOOKUP: SOFT, OFF: PALE, ON: ACCENT}
LABELS = {
    PLAIN: "transformers, plain",
    LOOKUP: "transformers, prompt lookup",
    OFF: "Paceline, speculation off",
    ON: "Paceline, speculation on",
}
GROUP_WIDTH = 0.82


def speeds(found: Speed) -> str:
    """A bar for each system by group; whiskers from the least to the greatest repeat."""
    groups = found.groups
    with rc_context(STYLE):
        figure, (axes,) = canvas(9.6, 3.5)
        width = GROUP_WIDTH / len(found.tokens_per_second)
        for index, (system, by_group) in enumerate(found.tokens_per_second.items()):
            offset = (index - (len(found.tokens_per_second) - 1) / 2) * width
            heights = [by_group.get(group, 0.0) for group in groups]
            ranges = [found.spread.tokens_per_second.get(system, {}).get(group, (0.0, 0.0)) for group in groups]
            bars = axes.bar(
                [at + offset for at in range(len(groups))],
                heights,
                0.92 * width,
                yerr=whiskers(heights, ranges) if found.runs > 1 else None,
                label=short(LABELS.get(system, system)),
                color=COLOURS.get(system, colour_of(index)),
                error_kw={"ecolor": INK, "elinewidth": 0.9, "capsize": 1.5},
            )
            if found.runs == 1:  # on top of a whisker a figure would be taken for the whisker's
                axes.bar_label(bars, fmt="%.0f", fontsize=7.5, padding=2, color=SOFT)
        axes.set_xticks(range(len(groups)), [short(group.replace("_", " ")) for group in groups])
        axes.tick_params(axis="x", length=0)
        axes.grid(axis="x", visible=False)
        axes.set_ylabel("tokens per second")
        axes.margins(x=0.01, y=0.12)
        axes.legend(loc="lower left", ncols=4, bbox_to_anchor=(0.0, 1.0), borderaxespad=0.2, handlelength=1.0)
        return svg_of(figure, "speeds")


def ratios(found: Speed) -> str:
    """On ÷ off by group: how questions differ (band: the middle half, line: all), and the repeats on top."""
    groups = list(found.groups)
    with rc_context(STYLE):
        figure, (axes,) = canvas(9.6, 0.9 + 0.36 * len(groups))
        axes.axvline(1.0, color=INK, linewidth=1.0)
        questions = found.by_question.on_over_off if found.by_question else {}
        of_repeats: Mapping[str, list[float]] = found.spread.ratios.get("on_over_off", {})
        for row, group in enumerate(groups):
            if group in questions:
                its = questions[group]
                axes.plot(its.range, [row, row], color=FAINT, linewidth=1.2, zorder=2)
                left, right = its.quartiles
                axes.barh(row, right - left, 0.5, left=left, color=PALE, zorder=2)
            if group in of_repeats:
                axes.plot(of_repeats[group], [row, row], color=ACCENT, linewidth=5, solid_capstyle="round", zorder=3)
            value = found.ratios["on_over_off"].get(group)
            if value is not None:
                axes.plot([value], [row], "o", color=ACCENT, markersize=8, markeredgecolor=CARD, zorder=4)
                axes.text(1.01, row, f"{value:.2f}", transform=axes.get_yaxis_transform(), va="center")
        axes.set_yticks(range(len(groups)), [short(group.replace("_", " ")) for group in groups])
        axes.margins(x=0.03)
        axes.set_ylim(len(groups) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("tokens per second with speculation ÷ without")
        return svg_of(figure, "ratios")
