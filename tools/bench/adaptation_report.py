"""What refitting brought while traffic shifted: tables, notes and a picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adaptation_figures import FROZEN, ONLINE, curve
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from report import STYLE
from rich.table import Table

COLOURS = {ONLINE: "#1769aa", FROZEN: "#8a8a8a"}


def tables(report: dict[str, Any]) -> Iterator[Table]:
    """Held-out prompts of each domain, before its traffic and after it."""
    table = Table(title=f"{report['model']}: held-out prompts before and after each domain's traffic", **STYLE)
    for name in ("domain", "tokens", "drafter", "acceptance", "", "per step", ""):
        table.add_column(name, justify="left" if name in ("domain", "drafter") else "right")
    for domain, found in report["domains"].items():
        for drafter in (ONLINE, FROZEN):
            its = found[drafter]
            figures = (
                f"{its[f'{figure}_{when}']:.3f}"
                for figure in ("acceptance", "tokens_per_step")
                for when in ("start", "end")
            )
            first = drafter == ONLINE
            table.add_row(domain if first else "", f"{found['tokens']:,}" if first else "", drafter, *figures)
    yield table


def notes(report: dict[str, Any]) -> Iterator[str]:
    """What to know beside the table."""
    yield "acceptance: of the candidates verified below right ones, the share that was right; per step: tokens"
    ratio = report["serving_ratio_while_training"]
    yield (
        f"{report['swaps']} revisions swapped in; {report['failed_requests']} requests failed; "
        f"{report['identical'][0]} of {report['identical'][1]} answers checked are those without speculation; tokens/s "
        f"while training: {'not known' if ratio is None else f'{ratio:.2f}'} of those without"
    )
    if not report["complete"]:
        yield f"not complete: {report['error'] or 'interrupted'}"


def draw(report: dict[str, Any], path: Path) -> None:
    """Writes a PNG: tokens per step over traffic, with domains, refits and swaps."""
    figure = Figure(figsize=(11, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for drafter in (FROZEN, ONLINE):
        at, values = curve(report["requests"], drafter)
        axes.plot(at, values, color=COLOURS[drafter], label=drafter, linewidth=1.5)
        for probe in report["probes"]:
            axes.plot(probe["tokens"], probe[drafter]["tokens_per_step"], "o", color=COLOURS[drafter], markersize=6)
    low, high = axes.get_ylim()
    for domain in report["domains"]:
        start = next(p["tokens"] for p in report["probes"] if p["domain"] == domain and p["when"] == "start")
        axes.axvline(start, color="#444444", linewidth=0.8)
        axes.text(start, high, f" {domain}", va="top", fontsize=9)
    swaps = [event["tokens"] for event in report["events"] if event["what"] == "published"]
    axes.plot(swaps, [low] * len(swaps), "^", color=COLOURS[ONLINE], markersize=7, label="swap")
    refits = [_tokens_at(report, event["at_s"]) for event in report["events"] if event["what"] == "refit"]
    axes.plot(refits, [low] * len(refits), "|", color="#d9822b", markersize=14, label="refit begins")
    axes.set_xlabel("tokens of traffic")
    axes.set_ylabel("tokens per step (dots: held-out prompts)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="best")
    figure.savefig(path, format="png", dpi=150)


def _tokens_at(report: dict[str, Any], at_s: float) -> int:
    return max((request["lessons"] for request in report["requests"] if request["at_s"] <= at_s), default=0)
