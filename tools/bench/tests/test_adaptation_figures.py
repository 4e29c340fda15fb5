"""Figures of traffic that shifts, by hand."""

from __future__ import annotations

from typing import Any

import pytest
from adaptation_figures import by_domain, curve, serving_ratio, summary, training


def probe(domain: str, when: str, tokens: int, online: float, frozen: float) -> dict[str, Any]:
    return {
        "domain": domain,
        "when": when,
        "tokens": tokens,
        "online": {"acceptance": online, "tokens_per_step": 1 + online},
        "frozen": {"acceptance": frozen, "tokens_per_step": 1 + frozen},
    }


PROBES = [
    probe("a", "start", 0, 0.5, 0.5),
    probe("a", "end", 100, 0.6, 0.5),
    probe("b", "start", 100, 0.1, 0.2),
    probe("b", "end", 300, 0.4, 0.2),
    probe("c", "start", 300, 0.3, 0.1),
    probe("c", "end", 400, 0.4, 0.1),
]


def test_the_mean_is_of_the_domains_that_traffic_shifted_to() -> None:
    found = summary(PROBES)
    assert found["online"] == {
        "acceptance_start": 0.2,
        "acceptance_end": 0.4,
        "tokens_per_step_start": 1.2,
        "tokens_per_step_end": 1.4,
    }
    assert found["frozen"]["acceptance_start"] == found["frozen"]["acceptance_end"] == 0.15
    assert [its["tokens"] for its in by_domain(PROBES).values()] == [100, 200, 100]
    assert list(by_domain(PROBES[:3])) == ["a"]
    assert summary(PROBES[:2])["online"]["acceptance_end"] == 0.6


def request(at_s: float, tokens: int, drafter: str = "frozen", domain: str = "a") -> dict[str, Any]:
    return {
        "domain": domain,
        "drafter": drafter,
        "at_s": at_s,
        "seconds": 1.0,
        "tokens": tokens,
        "steps": 2,
        "lessons": int(10 * at_s),
    }


EVENTS = [{"what": "refit", "at_s": 10.0}, {"what": "judged", "at_s": 20.0}, {"what": "refit", "at_s": 30.0}]


def test_training_lasts_from_a_refit_to_its_verdict() -> None:
    assert training(EVENTS) == [(10.0, 20.0), (30.0, float("inf"))]


def test_speeds_are_compared_within_and_without_training() -> None:
    outside = [request(at, 100) for at in (0.0, 2.0, 25.0)]
    inside = [request(at, 60) for at in (11.0, 12.0, 31.0)]
    across = [request(9.5, 1), request(19.5, 1)]
    online = [request(13.0, 1000, "online")]
    assert serving_ratio(outside + inside + across + online, EVENTS) == pytest.approx(0.6)
    assert serving_ratio(outside, EVENTS) is None
    assert serving_ratio(outside + inside, []) is None


def test_a_curve_is_a_moving_mean() -> None:
    at, values = curve([request(float(number), 3 if number < 12 else 5) for number in range(24)], "frozen")
    assert (values[0], values[-1]) == (1.0, 2.0)
    assert (at[0], at[-1]) == (110, 230)
