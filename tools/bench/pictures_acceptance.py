"""Pictures of acceptance: tokens per step by mix, and how often drafters are right at each depth."""

from __future__ import annotations

from typing import Any

from acceptance_plot import FEWEST, SHOWN_DEPTHS
from matplotlib import rc_context
from matplotlib.ticker import MaxNLocator
from pictures import INK, STYLE, canvas, colour_of, short, svg_of
from result_acceptance import Acceptance, Mix


def steps(found: Acceptance) -> str:
    """A bar for each mix."""
    with rc_context(STYLE):
        figure, (axes,) = canvas(9.6, 0.8 + 0.36 * len(found.mixes))
        values = [mix.tokens_per_step for mix in found.mixes.values()]
        rows = range(len(values))
        bars = axes.barh(rows, values, 0.6, color=[colour_of(index) for index in rows])
        axes.bar_label(bars, fmt="%.2f", padding=4)
        axes.axvline(1.0, color=INK, linewidth=1.0)
        axes.set_yticks(rows, [short(name) for name in found.mixes])
        axes.set_ylim(len(values) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.08)
        axes.set_xlabel("tokens per step (1: no speculation)")
        return svg_of(figure, "steps")


def depths(found: Acceptance) -> str:
    """Of the candidates at a depth the share that was right, and of the steps the share that got so deep."""
    with rc_context(STYLE):
        figure, (shares, reach) = canvas(9.6, 3.2, 1, 2)
        for index, (name, mix) in enumerate(found.mixes.items()):
            style: dict[str, Any] = {"color": colour_of(index), "marker": "o", "markersize": 3.5, "linewidth": 1.6}
            for axes, values in ((shares, well_known(mix)), (reach, mix.tokens_by_depth[:SHOWN_DEPTHS])):
                axes.plot(range(1, len(values) + 1), values, label=short(name), **style)
        shares.set_title(f"right, of those verified below right ones ({FEWEST} or more)")
        reach.set_title("share of steps that got so deep")
        for axes in (shares, reach):
            axes.set_ylim(bottom=0.0)
            axes.set_xlabel("depth below the last committed token")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        handles, labels = shares.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=min(4, len(found.mixes)), handlelength=1.2)
        return svg_of(figure, "depths")


def well_known(mix: Mix) -> list[float]:
    """Shares down to the first depth that hardly any candidate came to."""
    tested = mix.tested_by_depth[:SHOWN_DEPTHS]
    known = next((depth for depth, count in enumerate(tested) if count < FEWEST), len(tested))
    return mix.acceptance_by_depth[:known]
