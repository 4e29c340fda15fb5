"""What a run of traffic that shifts came to: pure arithmetic on what was noted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

ONLINE, FROZEN = "online", "frozen"
Note = Mapping[str, Any]
WINDOW = 12  # requests of each drafter that a point of the curve is the mean of


def summary(probes: Sequence[Note]) -> dict[str, dict[str, float]]:
    """Of each drafter: acceptance and tokens per step on held-out prompts of the domains that the traffic shifted to,
    when it came there and when it left; the mean of those domains. The first domain is no shift."""
    domains = _shifts(probes)
    return {
        name: {
            f"{figure}_{when}": _mean([_probe(probes, domain, when)[name][figure] for domain in domains])
            for figure in ("acceptance", "tokens_per_step")
            for when in ("start", "end")
        }
        for name in (ONLINE, FROZEN)
    }


def by_domain(probes: Sequence[Note]) -> dict[str, dict[str, Any]]:
    """The same for each domain, the first too; and how many tokens of traffic lay between."""
    names = list(dict.fromkeys(probe["domain"] for probe in probes))
    return {
        domain: {
            "tokens": _probe(probes, domain, "end")["tokens"] - _probe(probes, domain, "start")["tokens"],
            **{
                name: {
                    f"{figure}_{when}": _probe(probes, domain, when)[name][figure]
                    for figure in ("acceptance", "tokens_per_step")
                    for when in ("start", "end")
                }
                for name in (ONLINE, FROZEN)
            },
        }
        for domain in names
        if _has(probes, domain, "start") and _has(probes, domain, "end")
    }


def serving_ratio(requests: Sequence[Note], events: Sequence[Note]) -> float | None:
    """Tokens per second while a refit was computed, as a share of those when none was. Of the drafter that stays as it
    is, so that only what training takes makes a difference; medians within each domain, then their mean. None if
    there was always, or never, a refit."""
    intervals = training(events)
    ratios = []
    for domain in dict.fromkeys(request["domain"] for request in requests):
        speeds: dict[bool, list[float]] = {True: [], False: []}
        for request in requests:
            if request["domain"] == domain and request["drafter"] == FROZEN and request["seconds"] > 0:
                began, ended = request["at_s"], request["at_s"] + request["seconds"]
                inside = any(start <= began and ended <= end for start, end in intervals)
                outside = all(ended <= start or end <= began for start, end in intervals)
                if inside or outside:
                    speeds[inside].append(request["tokens"] / request["seconds"])
        if all(len(found) >= 3 for found in speeds.values()):
            ratios.append(median(speeds[True]) / median(speeds[False]))
    return round(sum(ratios) / len(ratios), 3) if ratios else None


def training(events: Sequence[Note]) -> list[tuple[float, float]]:
    """When refits were computed; one that was not judged by the end lasts for ever."""
    begun = sorted(event["at_s"] for event in events if event["what"] == "refit")
    ended = sorted(event["at_s"] for event in events if event["what"] == "judged")
    return [(start, next((end for end in ended if end >= start), float("inf"))) for start in begun]


def curve(requests: Sequence[Note], drafter: str) -> tuple[list[int], list[float]]:
    """Tokens of traffic so far, and tokens per step about then."""
    own = [request for request in requests if request["drafter"] == drafter and request["steps"]]
    at: list[int] = []
    values: list[float] = []
    for end in range(WINDOW, len(own) + 1):
        part = own[end - WINDOW : end]
        at.append(part[-1]["lessons"])
        values.append(sum(request["tokens"] - 1 for request in part) / sum(request["steps"] for request in part))
    return at, values


def _shifts(probes: Sequence[Note]) -> list[str]:
    names = list(by_domain(probes))
    return names[1:] or names


def _has(probes: Sequence[Note], domain: str, when: str) -> bool:
    return any(probe["domain"] == domain and probe["when"] == when for probe in probes)


def _probe(probes: Sequence[Note], domain: str, when: str) -> Note:
    return next(probe for probe in probes if probe["domain"] == domain and probe["when"] == when)


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 4) if values else 0.0
