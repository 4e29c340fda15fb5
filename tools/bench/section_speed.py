"""Speed, as a section: by group with spread, Spec-Bench's figures beside ours, several requests at once."""

from __future__ import annotations

from collections.abc import Iterator

import pictures_speed
from figures import LOOKUP, OFF, ON, PLAIN
from page import Block, Cell, Notice, Picture, Section, Table, Text
from result_base import Rates
from result_speed import Speed
from section_spec_bench import spec_bench_blocks
from suite_words import percent, runs_words, spread_words

COLUMNS = {PLAIN: "transformers, plain", LOOKUP: "transformers, lookup", OFF: "off", ON: "on"}
RATIOS = {
    "on_over_off": "on ÷ off",
    "on_over_prompt_lookup": "on ÷ lookup",
    "off_over_transformers_plain": "off ÷ plain",
}
SHOWN_DIFFERENT = 20


def speed_section(found: Speed) -> Section:
    return Section("speed", "Speed", list(_blocks(found)), _about(found))


def not_measured(found: Speed) -> Iterator[tuple[str, str]]:
    """What this run of the tool left out."""
    if not found.transformers:
        yield "transformers by itself", "--without-transformers was given"
    if not found.concurrency:
        yield "several requests at once", "--concurrency was not given"
    if not found.interference:
        yield "a long prompt beside a running session", "--long-prompt was not given"
    if found.runs < 2:
        yield "the spread of speeds", "there was one repeat; --repeat 3 or more shows it"
    if not found.by_question:
        yield "how questions differ, and Spec-Bench's figures", "the file is of an earlier version of the tool"


def _about(found: Speed) -> str:
    return (
        f"{found.questions} questions in Spec-Bench's form, up to {found.max_new_tokens} new tokens, greedy, one "
        "request "
        f"at a time, {runs_words(found.runs)}; systems take turns at every question. Tokens per second are all tokens "
        "of "
        "a group divided by all its time, reading the prompt included; an answer's time is the median of its repeats."
    )


def _blocks(found: Speed) -> Iterator[Block]:
    yield from _identity(found)
    yield Picture(
        pictures_speed.speeds(found),
        "Tokens per second by system and group of questions",
        "Tokens per second. "
        + ("Whiskers: least and greatest repeat." if found.runs > 1 else "One repeat: no spread."),
    )
    if found.ratios.get("on_over_off"):
        yield Picture(
            pictures_speed.ratios(found),
            "Tokens per second with speculation divided by those without, by group of questions",
            "Dot: on ÷ off of the group; thick line: from the least to the greatest repeat. "
            "Band: the middle half of the questions, each by itself; thin line: all of them.",
        )
    yield _speeds(found)
    if found.by_question:
        yield _questions(found)
    if found.spec_bench:
        yield from spec_bench_blocks(found.spec_bench, found.runs)
    if found.concurrency:
        yield _crowds(found)
    for name, gaps in found.interference.items():
        yield Text(
            f"Speculation {name}: beside a prompt of {gaps.prompt_tokens:,} tokens, read in {gaps.prefill_s:.1f} s, "
            "the "
            f"longest gap between two messages of a running session is {gaps.longest_gap_ms:.0f} ms, "
            f"{gaps.stretch:.1f} times its usual one."
        )


def _identity(found: Speed) -> Iterator[Block]:
    same, of = found.identical.get("paceline", [0, 0])
    if same == of:
        yield Text(
            f"With speculation on, {same} of {of} answers have the tokens they have without it, in every repeat."
        )
        return
    where = "\n".join(
        f"question {one.question_id}, turn {one.turn + 1}: from token {one.token} on"
        for one in found.different[:SHOWN_DIFFERENT]
    )
    yield Notice(
        f"Speculation changed answers: {same} of {of} are identical. The speeds below compare different texts.",
        "bad",
        where,
    )


def _speeds(found: Speed) -> Table:
    systems, ratios = list(found.tokens_per_second), list(found.ratios)
    rows: list[list[Cell | str]] = [
        [
            group.replace("_", " "),
            *(_rate(found.tokens_per_second, found.spread.tokens_per_second, name, group, ".1f") for name in systems),
            *(_rate(found.ratios, found.spread.ratios, name, group, ".2f") for name in ratios),
            f"{found.tokens_per_step[group]:.2f}" if group in found.tokens_per_step else "–",
        ]
        for group in found.groups
    ]
    head = ["group", *(COLUMNS.get(name, name) for name in systems), *(RATIOS.get(name, name) for name in ratios)]
    spread = "Small: least – greatest repeat" if found.runs > 1 else "One repeat: no spread is known"
    return Table(
        "Tokens per second",
        [*head, "tokens per step"],
        rows,
        f"{spread}. A figure outside of its range: single answers were disturbed, and an answer's median comes first. "
        "off, on: Paceline's speculation. Tokens per step: per forward pass with speculation on; the first token of an "
        "answer comes from the prompt's pass and doesn't count.",
        strong_rows=frozenset({0}),
    )


def _rate(values: Rates, ranges: object, name: str, group: str, style: str) -> Cell:
    value = values[name].get(group)
    if value is None:
        return Cell("–")
    limits = ranges.get(name, {}).get(group) if isinstance(ranges, dict) else None
    return Cell(format(value, style), below=spread_words(limits, style))


def _questions(found: Speed) -> Table:
    assert found.by_question is not None
    rows = []
    for group, its in found.by_question.on_over_off.items():
        (lower, upper), (least, greatest) = its.quartiles, its.range
        cells = (f"{value:.2f}" for value in (least, lower, its.median, upper, greatest))
        rows.append([group.replace("_", " "), f"{its.count:,}", *cells])
    return Table(
        "on ÷ off of single questions: how much they differ",
        ["group", "questions", "least", "first quartile", "median", "third quartile", "greatest"],
        rows,
        "Each question counts alike here, by the median of its repeats.",
        strong_rows=frozenset({0}),
    )


def _crowds(found: Speed) -> Table:
    rows = []
    for number, crowd in found.concurrency.items():
        cells: list[Cell | str] = [number]
        for its in (crowd.off, crowd.on):
            same, of = its.identical if its else (0, 0)
            cells += (
                [
                    Cell(f"{its.tokens_per_second:.1f}", below=f"{its.over_one:.2f} x one at a time"),
                    Cell(f"{same} of {of}", "plain" if same == of else "bad"),
                ]
                if its
                else ["–", "–"]
            )
        rows.append([*cells, "–" if crowd.on_over_off is None else f"{crowd.on_over_off:.2f}"])
    return Table(
        "Several requests at once: tokens per second of all together",
        ["at once", "off", "identical", "on", "identical", "on ÷ off"],
        rows,
        "identical: answers with the tokens that they have one at a time without speculation.",
    )


def headline(found: Speed) -> tuple[str, str, str] | None:
    """Label, figure and spread of what one asks first."""
    value = found.ratios.get("on_over_off", {}).get("all")
    if value is None:
        return None
    limits = found.spread.ratios.get("on_over_off", {}).get("all") if found.runs > 1 else None
    within = f"{spread_words(limits, '.2f')} in {runs_words(found.runs)}" if limits else "one repeat: no spread known"
    share = percent(value - 1.0, signed=True)
    return "speculation on ÷ off", f"{value:.2f} x", f"{share} tokens per second; {within}"
