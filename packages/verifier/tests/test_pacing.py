"""Drafting goes on where it pays and rests where it does not, however the costs come about."""

from __future__ import annotations

import pytest

from paceline.verifier.pacing import STRETCH_STEPS, TRIAL_EVERY, Pacing


def free(num_rows: int) -> float:
    return 0.01


def dear(num_rows: int) -> float:
    return 0.01 * num_rows


def shares(pacing: Pacing, num_sessions: int, drafting_rate: float, resting_rate: float, steps: int) -> float:
    """Share of steps with drafting, when each way has this many tokens per second."""
    drafted = 0
    for _ in range(steps):
        drafted += pacing.drafting
        rate = drafting_rate if pacing.drafting else resting_rate
        pacing.observe(num_sessions, num_sessions, num_sessions / rate)
    return drafted / steps


LONG = 40 * TRIAL_EVERY * STRETCH_STEPS


def test_it_drafts_first() -> None:
    assert shares(Pacing(free), 4, 1.0, 9.0, STRETCH_STEPS) == 1.0


def test_where_rows_are_dear_it_rests_first_but_looks_whether_drafting_pays_all_the_same() -> None:
    pacing = Pacing(dear)
    assert shares(pacing, 4, 1.0, 1.0, 1) == 1.0
    assert shares(pacing, 4, 1.0, 1.0, STRETCH_STEPS) == 0.0
    assert shares(pacing, 4, 200.0, 100.0, LONG) > 0.9


def test_a_lone_session_always_drafts() -> None:
    assert shares(Pacing(free), 1, 50.0, 100.0, LONG) == 1.0


@pytest.mark.parametrize("gain", [1.02, 1.5, 3.0])
def test_it_drafts_where_that_is_faster(gain: float) -> None:
    share = shares(Pacing(free), 4, 100.0 * gain, 100.0, LONG)
    assert share == pytest.approx(1.0 - 1.0 / TRIAL_EVERY, abs=0.02)


@pytest.mark.parametrize("gain", [0.95, 0.7, 0.2])
def test_it_rests_where_that_is_faster(gain: float) -> None:
    share = shares(Pacing(free), 8, 100.0 * gain, 100.0, LONG)
    assert share == pytest.approx(1.0 / TRIAL_EVERY, abs=0.02)


def test_among_many_sessions_it_learns_fast_that_drafting_does_not_pay() -> None:
    assert shares(Pacing(free), 8, 80.0, 100.0, 16 * STRETCH_STEPS) < 0.35


def test_it_follows_a_change() -> None:
    pacing = Pacing(free)
    shares(pacing, 2, 80.0, 100.0, LONG)
    shares(pacing, 2, 120.0, 100.0, LONG // 4)  # a drafter has learnt
    assert shares(pacing, 2, 120.0, 100.0, LONG) > 0.9


def test_sizes_of_the_batch_are_told_apart() -> None:
    pacing = Pacing(free)
    for _ in range(600):  # sizes that change faster than a stretch ends
        shares(pacing, 2, 150.0, 100.0, STRETCH_STEPS // 2)
        shares(pacing, 8, 50.0, 100.0, STRETCH_STEPS // 2)
    assert shares(pacing, 2, 150.0, 100.0, 20 * STRETCH_STEPS) > 0.8
    assert shares(pacing, 8, 50.0, 100.0, 20 * STRETCH_STEPS) < 0.2
