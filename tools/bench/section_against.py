"""The comparison with an earlier report, as a section."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from page import Block, Cell, Notice, Section, Table, Tone
from suite_against import Comparison, Difference, chance_of_parting
from suite_figures import Figure
from suite_words import moment, percent, spread_words

TONES: dict[str, Tone] = {"better": "good", "worse": "bad", "within the spread": "plain", "no spread": "plain"}
ORDER = ("worse", "better", "within the spread", "no spread")
WORDS = {"no spread": "one run: can't be said"}


def against_section(found: Comparison) -> Section:
    about = f"Against the report of {moment(found.earlier.started) or 'an unknown day'}: {found.earlier.command}"
    return Section("against", "Compared with an earlier report", list(_blocks(found)), about)


def _blocks(found: Comparison) -> Iterator[Block]:
    if "" in found.obstacles:
        yield Notice(f"NOT COMPARABLE: {found.obstacles['']}. No differences are shown.", "bad")
        return
    for part, why in found.obstacles.items():
        yield Notice(f"{part} is NOT COMPARABLE: {why}.", "bad")
    if not found.differences:
        yield Notice("Nothing is left to compare.")
        return
    count = {verdict: sum(d.verdict == verdict for d in found.differences) for verdict in TONES}
    yield Notice(
        f"Of {len(found.differences)} figures {count['better']} are better beyond the spread, {count['worse']} worse, "
        f"{count['within the spread']} within it; {count['no spread']} come from one run, of which nothing can be "
        "said.",
        "bad" if count["worse"] else "plain",
    )
    yield Table(
        "Figures then and now",
        ["part", "figure", "of", "then", "now", "change", "verdict"],
        [_row(one) for one in sorted(found.differences, key=lambda one: ORDER.index(one.verdict))],
        _about_chance(found.differences),
        wordy=frozenset({0, 1, 2, 6}),
    )
    if found.missing:
        yield Notice(
            f"{len(found.missing)} figures are in one of the two only.",
            "plain",
            "\n".join(map(" / ".join, found.missing)),
        )


def _row(one: Difference) -> list[Cell | str]:
    return [
        one.later.part,
        one.later.name,
        one.later.of,
        _value(one.earlier),
        _value(one.later),
        "–" if one.change is None else f"{100 * one.change:+.1f} %",
        Cell(WORDS.get(one.verdict, one.verdict), TONES[one.verdict], strong=one.verdict in ("better", "worse")),
    ]


def _value(figure: Figure) -> Cell:
    style = ".1f" if abs(figure.value) >= 10 else ".3f"
    limits = None if figure.low is None or figure.high is None else (figure.low, figure.high)
    return Cell(format(figure.value, style), below=spread_words(limits, style))


def _about_chance(differences: Sequence[Difference]) -> str:
    known = [one for one in differences if one.verdict != "no spread"]
    beyond = "Beyond the spread: the ranges of the two reports' runs don't meet."
    if not known:
        return f"{beyond} No figure has more than one run."
    pairs = sorted({(one.earlier.runs, one.later.runs) for one in known})
    chances = ", ".join(f"{n} and {m} runs: {percent(chance_of_parting(n, m))}" for n, m in pairs)
    return f"{beyond} By chance alone that happens to equal software in so many cases: {chances}."
