"""Adaptation, as a section: what refitting a drafter brings while traffic shifts."""

from __future__ import annotations

from collections.abc import Iterator

import pictures_adaptation
from adaptation_figures import FROZEN, ONLINE, WINDOW
from page import Block, Cell, Notice, Picture, Section, Table, Text, Tone
from result_adaptation import Adaptation, Judged

ABOUT = (
    "Prompts of one domain after another. Requests are drafted for, in turn, by a drafter that is refitted on that "
    "traffic "
    "and by the same drafter as it was. Before and after the traffic of each domain both are judged on prompts of it "
    "that "
    "are no traffic. One run: no spread is known."
)


def adaptation_section(found: Adaptation) -> Section:
    return Section("adaptation", "Adaptation", list(_blocks(found)), ABOUT)


def not_measured(found: Adaptation) -> Iterator[tuple[str, str]]:
    yield "the spread of adaptation", "the traffic is sent once"
    if found.serving_ratio_while_training is None:
        yield "what refitting takes from serving", "too few requests fell within, or outside of, a refit"
    if not found.swaps:
        yield (
            "the effect of a refit",
            "no revision was better than the one before, or there was too little traffic for one",
        )


def headline(found: Adaptation) -> tuple[str, str, str]:
    """Label, figure and what it stands beside."""
    online, frozen = found.online.tokens_per_step_end, found.frozen.tokens_per_step_end
    swaps = "one revision" if found.swaps == 1 else f"{found.swaps} revisions"
    return (
        "tokens per step, refitted",
        f"{online:.2f}",
        f"{frozen:.2f} if left alone; {swaps}, one run: no spread known",
    )


def _blocks(found: Adaptation) -> Iterator[Block]:
    same, of = found.identical
    if same < of:
        yield Notice(f"Speculation changed answers: {same} of {of} that were checked are identical.", "bad")
    if found.failed_requests:
        yield Notice(f"{found.failed_requests} requests failed.", "bad")
    if found.probes:
        yield Picture(
            pictures_adaptation.traffic(found),
            "Tokens per step over traffic, of the drafter that is refitted and of the one that is left alone",
            f"Lines: the mean of {WINDOW} requests each; absent where there were fewer. Dots: held-out prompts.",
        )
    yield _table(found)
    ratio = found.serving_ratio_while_training
    revisions = "One revision was" if found.swaps == 1 else f"{found.swaps} revisions were"
    yield Text(
        f"{revisions} swapped in. {same} of {of} answers that were checked are those without speculation. "
        "While a refit is computed, tokens per second are "
        + ("not known: too few requests." if ratio is None else f"{ratio:.2f} of those without.")
    )


def _table(found: Adaptation) -> Table:
    rows: list[list[Cell | str]] = []
    for domain, its in found.domains.items():
        for name, judged in ((ONLINE, its.online), (FROZEN, its.frozen)):
            rows.append([domain, f"{its.tokens:,}", pictures_adaptation.LABELS[name], *_judged(judged)])
    for name, judged in ((ONLINE, found.online), (FROZEN, found.frozen)):
        rows.append(["mean of the shifts", "", pictures_adaptation.LABELS[name], *_judged(judged)])
    head = ["domain", "tokens", "drafter", "acceptance before", "after", "tokens per step before", "after"]
    return Table(
        "Held-out prompts, before and after each domain's traffic",
        head,
        rows,
        "Acceptance: of the candidates verified below right ones, the share that was right. The first domain is what "
        "the "
        "drafter was made on; the mean is of those that came after it.",
        wordy=frozenset({0, 2}),
        strong_rows=frozenset({len(rows) - 2, len(rows) - 1}),
    )


def _judged(judged: Judged) -> list[Cell | str]:
    return [
        f"{judged.acceptance_start:.3f}",
        Cell(f"{judged.acceptance_end:.3f}", _tone(judged.acceptance_start, judged.acceptance_end)),
        f"{judged.tokens_per_step_start:.3f}",
        Cell(f"{judged.tokens_per_step_end:.3f}", _tone(judged.tokens_per_step_start, judged.tokens_per_step_end)),
    ]


def _tone(before: float, after: float) -> Tone:
    return "plain" if after == before else "good" if after > before else "bad"
