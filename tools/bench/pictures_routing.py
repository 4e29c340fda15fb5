"""Pictures of routing: how much of the best speed policies have missed so far, a small one for each scene."""

from __future__ import annotations

import math
from typing import Any

from matplotlib import rc_context
from matplotlib.ticker import MaxNLocator
from pictures import INK, SOFT, STYLE, canvas, colour_of, short, svg_of
from result_routing import Routing
from routing_run import BEST_FIXED

COLUMNS = 4
SETTLED = 3  # points of a curve that are noise


def curves(found: Routing) -> str:
    """Regret so far over segments; the default policy stands out. Empty if no curves were recorded."""
    scenes = [scene for scene in found.scenes if found.curves_of(scene)]
    if not scenes or not found.points:
        return ""
    columns = min(COLUMNS, len(scenes))
    rows = math.ceil(len(scenes) / columns)
    policies = sorted({policy for scene in scenes for policy in found.curves_of(scene)} - {found.default_policy})
    colours = {found.default_policy: colour_of(0)} | {name: colour_of(at + 1) for at, name in enumerate(policies)}
    with rc_context(STYLE):
        figure, grid = canvas(9.6, 0.6 + 1.9 * rows, rows, columns)
        figure.set_layout_engine("constrained", h_pad=0.09, w_pad=0.06)
        for axes, scene in zip(grid, scenes, strict=False):
            highest = 8.0
            for policy, values in found.curves_of(scene).items():
                percent = [100.0 * value for value in values[: len(found.points)]]
                first = policy == found.default_policy
                style: dict[str, Any] = {"linewidth": 2.4 if first else 1.0, "zorder": 3 if first else 2}
                axes.plot(found.points[: len(percent)], percent, color=colours[policy], label=short(policy), **style)
                highest = max(highest, *percent[SETTLED:], 0.0)
            if BEST_FIXED in found.scenes[scene]:
                fixed = 100.0 * found.scenes[scene][BEST_FIXED].regret
                axes.axhline(fixed, color=INK, linewidth=0.9, linestyle=":", label="best fixed arm")
                highest = max(highest, fixed)
            axes.set_title(short(scene.replace("_", " ")))
            axes.set_ylim(0.0, 1.1 * highest)
            axes.xaxis.set_major_locator(MaxNLocator(4))
        for axes in grid[len(scenes) :]:
            axes.set_visible(False)
        figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower left", ncols=7, handlelength=1.2)
        figure.supylabel("missed so far, %", fontsize=9, color=SOFT)
        return svg_of(figure, "regret")
