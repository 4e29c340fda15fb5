"""What mixes of drafters brought, as tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from report import STYLE
from rich.table import Table

SHOWN_DEPTHS = 4  # fit 80 columns; the JSON has all
FEW_DRAFTS = 0.9  # share of steps: with less one must know
KINDS = {"prose": "prose", "code": "code", "after_5000": "after 5,000"}


def tables(report: dict[str, Any]) -> Iterator[Table]:
    """By mix; by drafter and strategy; and by vocabulary bridge, if they were measured."""
    yield _by_mix(report)
    yield _by_drafter(report)
    if "bridges" in report:
        yield _by_bridge(report["bridges"])


def notes(report: dict[str, Any]) -> Iterator[str]:
    """What to know beside the tables."""
    yield (
        "per step: tokens per forward pass; d1, d2, …: of the candidates verified at that depth below right ones, the "
        "share that was right; ms, bytes: of drafting, and of messages on the Draft stream (in: to the verifier), per "
        "committed token"
    )
    if report["drafting"] == "always":
        yield "every candidate that had room was verified, whatever that costs (--drafting auto verifies what pays)"
    for name, mix in report["mixes"].items():
        if mix["drafted_steps"] < FEW_DRAFTS:
            yield (
                f"{name}: {mix['drafted_steps']:.0%} of its steps had candidates; in the others its drafters had none, "
                "or were late, which a busy machine makes them"
            )
    yield from report["warnings"]
    if not report["complete"]:
        yield "not complete: these figures cover only the mixes that were finished before the run ended"


def _by_mix(report: dict[str, Any]) -> Table:
    count = f"{report['questions']} questions, up to {report['max_new_tokens']} new tokens, {report['dtype']}"
    heat = f", temperature {report['temperature']:g}" if report["temperature"] else ""
    table = Table(title=f"{report['model']}: {count}{heat}", **STYLE)
    table.add_column("mix")
    for label in ("per step", *_depth_labels(), "ms", "bytes", "same"):
        table.add_column(label, justify="right", no_wrap=True)
    for name, mix in report["mixes"].items():
        table.add_row(
            name,
            f"{mix['tokens_per_step']:.2f}",
            *_depths(mix["acceptance_by_depth"]),
            f"{mix['draft_ms_per_token']:.2f}",
            f"{mix['wire_bytes_per_token']:.0f}",
            "{} of {}".format(*mix["identical"]),
        )
    return table


def _by_drafter(report: dict[str, Any]) -> Table:
    table = Table(title="by drafter and strategy: a candidate of several counts for each", **STYLE)
    table.add_column("mix, drafter, strategy")
    for label in ("tested", "right", *_depth_labels(), "ms", "in", "out"):
        table.add_column(label, justify="right", no_wrap=True)
    for name, mix in report["mixes"].items():
        table.add_row(name)
        for drafter, its in mix["drafters"].items():
            parts = [_counts(part) for part in its["strategies"].values()]
            alone = parts[0] if len(parts) == 1 else [""] * (2 + SHOWN_DEPTHS)
            wire = (f"{its['wire_bytes_per_token'][direction]:.0f}" for direction in ("received", "sent"))
            table.add_row(f"  {drafter}", *alone, f"{its['draft_ms_per_token']:.2f}", *wire)
            if len(parts) > 1:
                for strategy, counts in zip(its["strategies"], parts, strict=True):
                    table.add_row(f"    {strategy}", *counts)
        table.add_section()
    return table


def _counts(part: dict[str, Any]) -> list[str]:
    return [str(part["tested"]), f"{part['acceptance']:.2f}", *_depths(part["acceptance_by_depth"])]


def _by_bridge(bridges: dict[str, dict[str, float]]) -> Table:
    table = Table(title="bridges: share of real text that a drafter which knows it can propose", **STYLE)
    table.add_column("bridge")
    for label in KINDS.values():
        table.add_column(label, justify="right")
    for name, of_kind in bridges.items():
        table.add_row(name, *(f"{of_kind[kind]:.3f}" if kind in of_kind else "–" for kind in KINDS))
    return table


def _depth_labels() -> list[str]:
    return [f"d{depth}" for depth in range(1, SHOWN_DEPTHS + 1)]


def _depths(shares: Sequence[float]) -> list[str]:
    return [f"{shares[at]:.2f}" if at < len(shares) else "–" for at in range(SHOWN_DEPTHS)]
