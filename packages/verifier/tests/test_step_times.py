"""What planning expects of steps."""

from __future__ import annotations

import pytest

from paceline.verifier.cost import ForwardCost
from paceline.verifier.planning import grant
from paceline.verifier.step_times import MAX_READING_ERROR, Regardless, StepTimes, TimedStep
from paceline.verifier.trie import ROOT, Candidate, Node
from paceline.verifier.waiting import MAX_WAIT_S

ROWS, SECONDS = (1, 8, 64), (0.010, 0.012, 0.060)


def step_times(kind: type[StepTimes] = StepTimes) -> StepTimes:
    return kind(ForwardCost(ROWS, SECONDS))


def decoding(rows: int, seconds: float, between_s: float | None = 0.002, sessions: int = 1) -> TimedStep:
    return TimedStep(rows, sessions, 0, seconds, between_s)


def test_before_anything_is_known_a_step_takes_what_its_forward_pass_does():
    times = step_times()
    assert times.seconds(8) == times.reading_seconds(8) == times.usual_s(8) == 0.012
    assert times.usual_nodes == 0


def test_time_between_steps_is_learnt_and_makes_candidates_cheaper():
    times = step_times()
    least = times.least_value
    for _ in range(200):
        times.observe(decoding(4, 0.0108))
    assert times.seconds(8) - times.cost.seconds(8) == pytest.approx(0.002, rel=0.01)
    assert times.usual_s(1) == pytest.approx(0.0128, rel=0.01)
    assert times.usual_nodes == 3
    assert times.least_value < least


def test_what_a_step_did_is_worth_what_plain_passes_would_take():
    times = step_times()
    assert times.plain_seconds(1, 1, 0) == 0.010
    assert times.plain_seconds(8, 20, 0) == pytest.approx(0.012 * 20 / 8)
    assert times.plain_seconds(1, 3, 63) == pytest.approx(0.060 + 2 * 0.010)
    for _ in range(100):
        times.observe(TimedStep(64, 2, 1, 0.120, None))
    assert times.plain_seconds(1, 3, 63) == pytest.approx(0.120 + 2 * 0.010, rel=0.01)


def test_a_pause_of_the_service_is_no_time_between_steps():
    times = step_times()
    times.observe(decoding(1, 0.010, between_s=None))
    assert times.seconds(1) == times.cost.seconds(1)
    for _ in range(500):
        times.observe(decoding(1, 0.010, between_s=3600.0))
    assert times.seconds(1) <= 0.010 + MAX_WAIT_S + 1e-9


def test_steps_that_read_a_prompt_move_only_the_time_of_such_steps():
    times = step_times()
    for _ in range(100):
        times.observe(TimedStep(64, 2, 1, 0.120, None))
    assert times.reading_seconds(64) == pytest.approx(0.120, rel=0.01)
    assert times.seconds(64) == 0.060
    for _ in range(100):
        times.observe(TimedStep(64, 2, 1, 60.0, None))
    assert times.reading_seconds(64) <= MAX_READING_ERROR * 0.060 + 1e-9


def test_a_prompt_that_is_read_alone_teaches_nothing():
    times = step_times()
    times.observe(TimedStep(64, 1, 1, 5.0, None))
    assert times.reading_seconds(64) == times.seconds(64) == 0.060


@pytest.mark.parametrize(("kind", "granted"), [(StepTimes, 0), (Regardless, 20)])
def test_regardless_of_cost_every_candidate_is_granted(kind, granted):
    times = step_times(kind)
    offered = {1: [Candidate(Node(token, None), ROOT, 0.01) for token in range(20)]}
    assert times.least_value <= 0.03
    assert grant(offered, 1, times.seconds, 64) == {1: granted}
