from __future__ import annotations

import math

import pytest

from paceline.drafter.pace import NODES_PER_STEP_AWAY, Pace
from paceline.drafter.strategies.base import Budget


def pace_of(round_trip_s: float, step_s: float = 0.01, draft_s: float = 0.0, reaches=True) -> Pace:
    pace = Pace(reaches)
    for _ in range(200):
        pace.observe_round_trip(round_trip_s)
        pace.observe_step(step_s)
        pace.observe_draft(draft_s)
    return pace


def test_next_door_nothing_changes():
    pace = pace_of(0.0005)
    assert not pace.is_far
    assert pace.steps_away == 0.0
    assert pace.extended(Budget(32, 64, 0.1), 256) == Budget(32, 64, 0.1)


def test_far_away_drafts_reach_over_what_is_committed_meanwhile():
    pace = pace_of(0.040, draft_s=0.01)
    assert pace.is_far
    assert pace.steps_away == pytest.approx(5, abs=0.1)
    assert pace.extended(Budget(32, 64, 0.1), 256) == Budget(32 + math.ceil(NODES_PER_STEP_AWAY * pace.steps_away), 64)
    assert pace.extended(Budget(32, 64, 0.1), 48).max_nodes == 48
    assert pace.extended(Budget(64, 64, 0.1), 48).max_nodes == 64, "never less than without"


def test_one_that_may_not_reach_does_not():
    assert pace_of(0.040, reaches=False).steps_away == 0.0


def test_unknown_pace_is_not_far():
    pace = Pace()
    pace.observe_round_trip(5.0)
    assert not pace.is_far
    pace.observe_step(0.0)
    assert pace.step_s == 0.0


def test_one_outlier_does_not_decide():
    pace = pace_of(0.001)
    pace.observe_round_trip(1e9)
    assert pace.round_trip_s < 4.0
    assert pace.steps_away < 1_000
