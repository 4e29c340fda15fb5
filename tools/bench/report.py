"""The report as tables for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from figures import ALL, LOOKUP, OFF, ON, PLAIN
from rich import box
from rich.table import Table

LABELS = {PLAIN: "plain", LOOKUP: "lookup", OFF: "off", ON: "on"}
STYLE: dict[str, Any] = {"box": box.SIMPLE_HEAD, "pad_edge": False, "padding": (0, 1, 0, 0)}  # fits 80 columns
RATIO_LABELS = {
    "on_over_off": "on ÷ off",
    "on_over_prompt_lookup": "on ÷ lookup",
    "off_over_transformers_plain": "off ÷ plain",
}


def tables(report: dict[str, Any]) -> Iterator[Table]:
    """Speeds by group, and by number of requests at once where that was measured."""
    yield _speeds(report)
    if report["concurrency"]:
        yield _concurrency(report)


def notes(report: dict[str, Any]) -> Iterator[str]:
    """What to know beside the tables."""
    yield "tokens per second, prefill included; off, on: speculation; per step: tokens per forward pass with it on"
    if report["transformers"]:
        yield "plain, lookup: transformers by itself in {dtype}, {threads} threads".format(**report["transformers"])
    else:
        yield "transformers was not measured (--without-transformers), so its columns are absent"
    for name, (same, of) in report["identical"].items():
        reference = "off" if name == "paceline" else "plain decoding"
        yield f"{'on' if name == 'paceline' else 'prompt lookup'}: same tokens as {reference} in {same} of {of} answers"
    for name, gaps in report["interference"].items():
        yield (
            f"{name}: beside a prompt of {gaps['prompt_tokens']} tokens, read in {gaps['prefill_s']:.1f} s, the "
            f"longest gap between two messages of a running session is {gaps['longest_gap_ms']:.0f} ms, "
            f"{gaps['stretch']:.1f} times its usual one"
        )
    if not report["complete"]:
        yield "not complete: these figures cover only what was measured before the run ended"


def _speeds(report: dict[str, Any]) -> Table:
    speeds, ratios, steps = report["tokens_per_second"], report["ratios"], report["tokens_per_step"]
    count = f"{report['questions']} questions, up to {report['max_new_tokens']} new tokens, {report['dtype']}"
    table = Table(title=f"{report['model']}: {count}", **STYLE)
    table.add_column("group", no_wrap=True)
    for label in [*map(LABELS.__getitem__, speeds), *map(RATIO_LABELS.__getitem__, ratios), "per step"]:
        table.add_column(label, justify="right")
    for group in next(iter(speeds.values())):
        table.add_row(
            group,
            *(f"{of_group[group]:.1f}" for of_group in speeds.values()),
            *(f"{of_group[group]:.2f}" for of_group in ratios.values()),
            f"{steps[group]:.2f}",
            end_section=group == ALL,
        )
    return table


def _concurrency(report: dict[str, Any]) -> Table:
    table = Table(title="requests at once: tokens per second of all together", **STYLE)
    for label in ("at once", "off", "÷ one", "same", "on", "÷ one", "same", "on ÷ off"):
        table.add_column(label, justify="right")
    for number, entry in report["concurrency"].items():
        cells = [
            cell
            for system in ("off", "on")
            for cell in (
                f"{entry[system]['tokens_per_second']:.1f}",
                f"{entry[system]['over_one']:.2f}",
                "{} of {}".format(*entry[system]["identical"]),
            )
        ]
        table.add_row(number, *cells, f"{entry['on_over_off']:.2f}")
    return table
