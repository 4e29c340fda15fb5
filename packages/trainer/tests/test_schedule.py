"""When to refit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from paceline.trainer.online.schedule import SCHEDULES, make_schedule
from paceline.trainer.online.schedule.base import Situation
from paceline.trainer.online.schedule.cost_aware import CostAware, expected_gain
from paceline.trainer.online.schedule.drift import DriftTest
from paceline.trainer.online.schedule.interval import Interval

QUIET = Situation(
    now_s=1000.0,
    refitted_s=0.0,
    new_tokens=0,
    tokens_per_s=50.0,
    acceptance=0.5,
    best_acceptance=0.5,
    refit_s=60.0,
    gain_per_token=0.0,
)


@pytest.mark.parametrize("name", SCHEDULES)
def test_nothing_new_is_nothing_to_learn(name: str) -> None:
    schedule = make_schedule(name, 8192)
    assert not schedule.due(QUIET)
    assert not schedule.due(replace(QUIET, drifted=True, refit_s=0.0))
    assert schedule.due(replace(QUIET, new_tokens=10**6, refit_s=0.0))


def test_the_interval_is_shorter_after_a_drift() -> None:
    rule = Interval(tokens=1000, least_tokens=100)
    assert [rule.due(replace(QUIET, new_tokens=count)) for count in (999, 1000)] == [False, True]
    assert [rule.due(replace(QUIET, new_tokens=count, drifted=True)) for count in (99, 100)] == [False, True]


def test_what_a_refit_brings_is_weighed_against_what_it_costs() -> None:
    # 5,000 tokens at a gain of 1e-5 each are 5 % of an hour: 180 s; a refit of 60 s at half weight costs 30 s.
    rule = CostAware(horizon_s=3600, weight=0.5, busy_tokens_per_s=50)
    paying = replace(QUIET, new_tokens=5000, gain_per_token=1e-5)
    assert rule.due(paying)
    assert not rule.due(replace(paying, refit_s=361.0))
    assert not rule.due(replace(paying, tokens_per_s=50.0 * 29 / 180))
    assert not rule.due(replace(paying, gain_per_token=-1e-5))
    assert not CostAware(horizon_s=590, weight=0.5).due(paying)


def test_lost_acceptance_is_expected_to_come_back() -> None:
    # From .6 to .5 of the tokens: 1 / .4 = 2.5 tokens a step become 2, a fifth less.
    assert expected_gain(replace(QUIET, best_acceptance=0.6)) == pytest.approx(0.2)
    assert expected_gain(replace(QUIET, best_acceptance=0.6, acceptance=0.7)) == 0.0
    assert expected_gain(replace(QUIET, best_acceptance=1.0, acceptance=1.0)) == 0.0


def test_drift_is_found_and_scatter_is_not() -> None:
    """Of lessons of 100 tokens. False alarms in 100 texts of 300 lessons; lessons until a fall by .1 is found."""
    alarms, delays = 0, []
    for seed in range(100):
        random = np.random.default_rng(seed)
        test = DriftTest()
        for _ in range(300):
            test = test.observe(random.binomial(100, random.beta(20, 20)), 100)
            alarms += test.drifted
            if test.drifted:
                break
        test = DriftTest()
        for _ in range(100):
            test = test.observe(random.binomial(100, 0.5), 100)
        assert not test.drifted
        for lesson in range(1, 200):
            test = test.observe(random.binomial(100, 0.4), 100)
            if test.drifted:
                delays.append(lesson)
                break
    assert alarms <= 10
    assert len(delays) == 100
    assert float(np.median(delays)) <= 20


def test_a_test_begins_anew() -> None:
    test = DriftTest(slack=0.1, threshold=5.0)
    for _ in range(20):
        test = test.observe(90, 100)
    for _ in range(3):
        test = test.observe(0, 100)
    assert test.drifted
    assert test.restarted() == DriftTest(slack=0.1, threshold=5.0)
