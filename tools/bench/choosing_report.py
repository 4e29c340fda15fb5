"""How policies did against arms set by hand: a table, notes and a picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from figures import ALL
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from report import STYLE
from rich.table import Table

GREY, BEST = "#b8b8b8", "#444444"


def tables(report: dict[str, Any]) -> Iterator[Table]:
    """Tokens per second of each arm and policy, and how often a policy had an arm in the end."""
    speeds, settled = report["tokens_per_second"], report["settled"]
    best = speeds[report["best_arm"]][ALL]
    shares = {
        policy: {belief["arm"]: belief["share"] for belief in beliefs} for policy, beliefs in report["beliefs"].items()
    }
    table = Table(title=f"{report['questions']} questions, up to {report['max_new_tokens']} new tokens", **STYLE)
    table.add_column("set by hand, or policy", no_wrap=True)
    for label in ("tokens/s", "÷ best", "second half", *(f"in {policy}" for policy in shares)):
        table.add_column(label, justify="right")
    for name in sorted(speeds, key=lambda name: -speeds[name][ALL]):
        of_policies = [f"{100 * of_arm[name]:.0f} %" if name in of_arm else "" for of_arm in shares.values()]
        figures = (speeds[name][ALL], speeds[name][ALL] / best, settled[name][ALL])
        style = "bold" if name in report["policies"] else None
        cells = (f"{figures[0]:.1f}", f"{figures[1]:.3f}", f"{figures[2]:.1f}")
        table.add_row(name, *cells, *of_policies, style=style)
    yield table


def notes(report: dict[str, Any]) -> Iterator[str]:
    """What to know beside the table."""
    yield (
        f"best set by hand: {report['best_arm']}, in the second half {report['best_arm_settled']}; 'in POLICY' is the "
        "arm's share of the segments that its router still remembers"
    )
    for policy, found in report["policies"].items():
        low, high = found["over_best_spread"] or ("", "")
        yield (
            f"{policy}: {found['over_best']} of the best arm's speed (repeats {low} to {high}), "
            f"{found['over_best_settled']} in the second half"
        )
    same, of = report["identical"]
    yield f"same tokens as plain decoding in {same} of {of} answers"
    if not report["complete"]:
        yield "not complete: these figures cover only what was measured before the run ended"


def draw(report: dict[str, Any], path: Path) -> None:
    """Writes a PNG: tokens per second over the run, policies against arms set by hand."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, values in report["curve"].items():
        learnt, best = name in report["policies"], name == report["best_arm"]
        style = {"linewidth": 2.2} if learnt else {"linewidth": 1.0, "color": BEST if best else GREY}
        axes.plot(range(1, len(values) + 1), values, label=name if learnt or best else None, **style)
        axes.annotate(f" {name}", (len(values), values[-1]), fontsize=7, va="center")
    axes.set_xlabel("stretches of the run")
    axes.set_ylabel("tokens per second, prefill included")
    axes.set_ylim(bottom=0.0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left")
    figure.savefig(path, format="png", dpi=150)
