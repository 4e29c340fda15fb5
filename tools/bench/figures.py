"""From measurements to the figures that are reported: pure arithmetic.

Tokens per second of a group are all its tokens divided by all its time, so a long answer weighs more than a short one;
'all' is the same over every question. With several repeats an answer's time is the median of its times. The spread
is the least and the greatest figure that a single repeat came to; `repeats` has what each came to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeVar

from questions import GROUPS

PLAIN, LOOKUP = "transformers_plain", "transformers_prompt_lookup"
OFF, ON = "paceline_off", "paceline_on"
SYSTEMS = (PLAIN, LOOKUP, OFF, ON)
RATIOS = {
    "on_over_off": (ON, OFF),
    "on_over_prompt_lookup": (ON, LOOKUP),
    "off_over_transformers_plain": (OFF, PLAIN),
}
ALL = "all"

T = TypeVar("T")
K = TypeVar("K")

Rates = dict[str, dict[str, float]]  # by system (or ratio), then by group


@dataclass(frozen=True, slots=True)
class Measurement:
    """One answer of one system, alone on the machine. `steps` are forward passes after the prompt's."""

    system: str
    question_id: str
    group: str
    turn: int
    repeat: int
    ids: tuple[int, ...]
    seconds: float
    steps: int = 0

    @property
    def answer(self) -> tuple[str, int]:
        """Which answer: the same for every system and repeat."""
        return self.question_id, self.turn


@dataclass(frozen=True, slots=True)
class Crowd:
    """All questions answered with `concurrency` requests at once.

    `identical` counts the answers with the tokens of speculation off, one at a time.
    """

    concurrency: int
    system: str
    repeat: int
    tokens: int
    seconds: float
    identical: int
    answers: int


def figures(measured: Sequence[Measurement], crowds: Sequence[Crowd] = ()) -> dict[str, Any]:
    """The part of the report that is computed. Systems and groups that weren't measured are absent."""
    speeds = rates(measured)
    singles = speeds_of_repeats(measured)
    return {
        "tokens_per_second": _rounded(speeds),
        "tokens_per_step": _rounded({ON: tokens_per_step(measured)})[ON],
        "ratios": _rounded(ratios(speeds)),
        "identical": identical(measured),
        "different": different(measured, OFF, ON),
        "spread": {
            "tokens_per_second": _extremes(speeds, singles),
            "ratios": _extremes(ratios(speeds), [ratios(single) for single in singles]),
        },
        "tokens": {system: _tokens(of_system) for system, of_system in by_key(measured, lambda m: m.system).items()},
        "repeats": [{"tokens_per_second": _rounded(single), "ratios": _rounded(ratios(single))} for single in singles],
        "concurrency": concurrency(crowds, {system: of_group[ALL] for system, of_group in speeds.items()}),
    }


def rates(measured: Sequence[Measurement], systems: Sequence[str] = SYSTEMS) -> Rates:
    """Tokens per second by system and group, of those systems that were measured."""
    by_system = by_key(measured, lambda m: m.system)
    return {
        system: {group: _rate(members) for group, members in grouped(by_system[system]).items()}
        for system in systems
        if system in by_system
    }


def speeds_of_repeats(measured: Sequence[Measurement], systems: Sequence[str] = SYSTEMS) -> list[Rates]:
    """The rates of each repeat alone, of those that cover every answer."""
    return [rates(repeat, systems) for repeat in whole_repeats(measured)]


def ratios(speeds: Rates) -> Rates:
    """Quotients of the systems' speeds by group, where both were measured."""
    return {
        name: {group: speed / speeds[under][group] for group, speed in speeds[over].items() if group in speeds[under]}
        for name, (over, under) in RATIOS.items()
        if over in speeds and under in speeds
    }


def tokens_per_step(measured: Sequence[Measurement]) -> dict[str, float]:
    """Of speculation on, by group. A first token comes from the prompt's own pass, so it doesn't count."""
    on = [measurement for measurement in measured if measurement.system == ON]
    result = {}
    for group, members in grouped(on).items():
        steps = sum(member.steps for member in members)
        result[group] = sum(len(member.ids) - 1 for member in members) / steps if steps else 1.0
    return result


def identical(measured: Sequence[Measurement]) -> dict[str, list[int]]:
    """[answers with the same tokens in every repeat, answers]: on against off, prompt lookup against plain."""
    pairs = {"paceline": (OFF, ON), LOOKUP: (PLAIN, LOOKUP)}
    result = {}
    for name, (reference, other) in pairs.items():
        answers = {m.answer for m in measured if m.system == other}
        if answers:
            result[name] = [len(answers) - len(different(measured, reference, other)), len(answers)]
    return result


def different(measured: Sequence[Measurement], reference: str, other: str) -> list[dict[str, Any]]:
    """The answers in which two systems differ in any repeat, with the position of the first different token."""
    expected = {(m.answer, m.repeat): m.ids for m in measured if m.system == reference}
    found: dict[tuple[str, int], int] = {}
    for m in measured:
        if m.system == other and (ids := expected[m.answer, m.repeat]) != m.ids:
            found.setdefault(m.answer, _first_difference(ids, m.ids))
    return [{"question_id": question, "turn": turn, "token": at} for (question, turn), at in found.items()]


def concurrency(crowds: Sequence[Crowd], alone: dict[str, float]) -> dict[str, Any]:
    """By number of requests at once. `over_one` is against the same questions one at a time."""
    result: dict[str, Any] = {}
    for number, members in by_key(crowds, lambda crowd: crowd.concurrency).items():
        by_system = by_key(members, lambda crowd: crowd.system)
        speeds = {
            system: median(crowd.tokens / crowd.seconds for crowd in repeats) for system, repeats in by_system.items()
        }
        entry: dict[str, Any] = {
            system.removeprefix("paceline_"): {
                "tokens_per_second": round(speeds[system], 3),
                "over_one": round(speeds[system] / alone[system], 3),
                "identical": [min(crowd.identical for crowd in repeats), repeats[0].answers],
            }
            for system, repeats in by_system.items()
        }
        if ON in speeds and OFF in speeds:
            entry["on_over_off"] = round(speeds[ON] / speeds[OFF], 3)
        result[str(number)] = entry
    return result


def all_identical(report: dict[str, Any]) -> bool:
    """Whether speculation changed no answer, one at a time and with several at once."""
    pairs = [report["identical"].get("paceline", [0, 0])]
    for entry in report["concurrency"].values():
        pairs += [entry[system]["identical"] for system in ("off", "on") if system in entry]
    return all(same == of for same, of in pairs)


def _rate(members: Iterable[Measurement]) -> float:
    answers = by_key(members, lambda m: m.answer).values()
    seconds = sum(median(m.seconds for m in repeats) for repeats in answers)
    return sum(median(len(m.ids) for m in repeats) for repeats in answers) / seconds


def _tokens(members: Sequence[Measurement]) -> int:
    return sum(len(m.ids) for m in members if m.repeat == 0)


def grouped(members: Sequence[Measurement]) -> dict[str, list[Measurement]]:
    """All of them under 'all', then those of each group."""
    by_group = by_key(members, lambda m: m.group)
    found = {group: by_group[group] for group in GROUPS if group in by_group}
    return {ALL: list(members), **found} if found else {}


def whole_repeats(measured: Sequence[Measurement]) -> list[list[Measurement]]:
    """The repeats that cover every answer; the last one does not if the run was interrupted."""
    repeats = list(by_key(measured, lambda m: m.repeat).values())
    most = max(map(len, repeats), default=0)
    return [repeat for repeat in repeats if len(repeat) == most]


def _extremes(keys: Rates, singles: Sequence[Rates]) -> dict[str, dict[str, list[float]]]:
    return {
        name: {
            group: [round(pick(single[name][group] for single in singles), 3) for pick in (min, max)]
            for group in groups
        }
        for name, groups in keys.items()
    }


def _rounded(values: Rates) -> Rates:
    return {name: {group: round(value, 3) for group, value in groups.items()} for name, groups in values.items()}


def _first_difference(left: tuple[int, ...], right: tuple[int, ...]) -> int:
    pairs = enumerate(zip(left, right, strict=False))
    return next((at for at, (one, other) in pairs if one != other), min(len(left), len(right)))


def by_key(members: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    grouped: dict[K, list[T]] = {}
    for member in members:
        grouped.setdefault(key(member), []).append(member)
    return grouped
