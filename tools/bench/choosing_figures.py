"""How policies that learn compare with arms set by hand: pure arithmetic on measurements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from figures import ALL, OFF, Measurement, rates, speeds_of_repeats

NONE = "none"  # the arm of plain decoding, which is the system OFF


def choosing_figures(measured: Sequence[Measurement], policies: Sequence[str]) -> dict[str, Any]:
    """The part of the report that is computed.

    `over_best` is a policy's tokens per second divided by those of the best arm set by hand, over the whole run and
    over its second half, in which the best arm is found anew; `over_best_spread` its least and greatest in a single
    repeat, against the same arm.
    """
    systems = list(dict.fromkeys(measurement.system for measurement in measured))
    by_hand = [system for system in systems if system not in policies]
    speeds = rates(measured, systems)
    settled = rates(second_half(measured), systems)
    best, best_settled = best_of(speeds, by_hand), best_of(settled, by_hand)
    singles = speeds_of_repeats(measured, systems)
    found = {
        policy: {
            "over_best": round(speeds[policy][ALL] / speeds[best][ALL], 3),
            "over_best_settled": round(settled[policy][ALL] / settled[best_settled][ALL], 3),
            "over_best_spread": _extremes([single[policy][ALL] / single[best][ALL] for single in singles]),
            "over_none": round(speeds[policy][ALL] / speeds[OFF][ALL], 3) if OFF in speeds else None,
        }
        for policy in policies
        if policy in speeds
    }
    return {
        "tokens_per_second": {name_of(system): _rounded(speeds[system]) for system in systems},
        "settled": {name_of(system): _rounded(settled[system]) for system in systems},
        "best_arm": name_of(best),
        "best_arm_settled": name_of(best_settled),
        "policies": found,
        "curve": {name_of(system): curve(measured, system) for system in systems},
        "identical": identical(measured),
    }


def name_of(system: str) -> str:
    return NONE if system == OFF else system


def best_of(speeds: dict[str, dict[str, float]], systems: Sequence[str]) -> str:
    """The system with the most tokens per second over all groups."""
    return max(systems, key=lambda system: speeds[system][ALL])


def second_half(measured: Sequence[Measurement]) -> list[Measurement]:
    """The later half of each system's answers."""
    half = []
    for system in dict.fromkeys(measurement.system for measurement in measured):
        own = [measurement for measurement in measured if measurement.system == system]
        half += own[len(own) // 2 :]
    return half


def curve(measured: Sequence[Measurement], system: str, points: int = 12) -> list[float]:
    """Tokens per second of one stretch of the run after the other."""
    own = [measurement for measurement in measured if measurement.system == system]
    points = min(points, len(own))
    stretches = [own[len(own) * at // points : len(own) * (at + 1) // points] for at in range(points)]
    return [round(sum(len(m.ids) for m in some) / sum(m.seconds for m in some), 3) for some in stretches]


def identical(measured: Sequence[Measurement]) -> list[int]:
    """[answers with the tokens of plain decoding, answers]."""
    expected = {(m.answer, m.repeat): m.ids for m in measured if m.system == OFF}
    others = [m for m in measured if m.system != OFF]
    return [sum(m.ids == expected[m.answer, m.repeat] for m in others), len(others)]


def _extremes(values: Sequence[float]) -> list[float]:
    return [round(min(values), 3), round(max(values), 3)] if values else []


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {group: round(value, 3) for group, value in values.items()}
