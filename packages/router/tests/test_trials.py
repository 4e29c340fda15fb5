"""Trials of revisions: how often the verdict is right, and what is counted."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trial_worlds import World, outcomes, run_trial

from paceline.router.arms import Arm
from paceline.router.trial_book import TrialBook
from paceline.router.trial_seat import TrialSeat
from paceline.router.trials import MIN_REQUESTS, Evidence, Outcome, Rule
from paceline.v1 import generation_pb2

COUNT = 60


@pytest.mark.parametrize(
    ("world", "better"),
    [
        (World(trial=1.8), (0.98, 1.0)),
        (World(trial=1.65), (0.95, 1.0)),
        (World(), (0.6, 1.0)),
        (World(trial=1.35), (0.0, 0.05)),
        (World(trial=1.2), (0.0, 0.0)),
        (World(trial=1.2, request_noise=0.5, segment_noise=0.5), (0.0, 0.1)),
        (World(trial=1.8, request_noise=0.5, segment_noise=0.5), (0.9, 1.0)),
    ],
)
def test_how_often_a_revision_takes_over(world: World, better: tuple[float, float]) -> None:
    found, segments = outcomes(world, COUNT)
    assert found[Outcome.UNDECIDED] == 0, "every trial ends"
    least, most = better
    assert least <= found[Outcome.BETTER] / COUNT <= most
    assert segments <= 2 * Rule().patience * Rule().segments


def test_a_large_difference_is_seen_sooner_than_a_small_one() -> None:
    assert outcomes(World(trial=1.0), COUNT)[1] < outcomes(World(trial=1.4), COUNT)[1]


def test_a_small_share_of_requests_is_tried() -> None:
    verdict, requests = run_trial(World(), Rule(certainty=100.0), 8, seed=3)
    assert verdict.trial.requests / requests == pytest.approx(1 / 8, rel=0.3)


REQUESTS = st.lists(st.tuples(st.integers(1, 9), st.floats(0.0, 8.0)), min_size=2, max_size=30)


def evidence(requests: list[tuple[int, float]]) -> Evidence:
    found = Evidence()
    for segments, mean in requests:
        found = found.with_request(segments, segments * mean)
    return found


@given(REQUESTS)
def test_means_and_variances_are_those_of_the_requests(requests: list[tuple[int, float]]) -> None:
    found = evidence(requests)
    total = sum(segments for segments, _ in requests)
    mean = sum(segments * reward for segments, reward in requests) / total
    residuals = [segments * (reward - mean) for segments, reward in requests]
    count = len(requests)
    variance = sum(item * item for item in residuals) * count / (count - 1) / total**2
    assert found.mean == pytest.approx(mean)
    assert found.variance == pytest.approx(variance, rel=1e-6, abs=1e-9)


def test_with_requests_of_one_segment_it_is_the_variance_of_a_mean() -> None:
    rewards = [1.0, 1.5, 2.0, 1.2, 0.7]
    found = evidence([(1, reward) for reward in rewards])
    assert found.variance == pytest.approx(statistics.variance(rewards) / len(rewards))
    assert math.isinf(evidence([(4, 1.0)]).variance)


def test_nothing_is_said_before_both_sides_have_enough() -> None:
    rule = Rule(segments=4)
    many, few = evidence([(1, 1.0)] * 20), evidence([(1, 5.0)] * 3)
    long = evidence([(50, 1.0)] * (MIN_REQUESTS - 1))
    assert rule.decide(few, many) is rule.decide(many, few) is Outcome.UNDECIDED
    assert rule.decide(long, many) is rule.decide(many, long) is Outcome.UNDECIDED
    assert rule.decide(many, many) is Outcome.BETTER, "just as good is good enough"


def test_what_a_verifier_refused_fails_the_trial_at_once_and_for_good() -> None:
    book = TrialBook(Rule(), 2, random.Random(1).random)
    assert book.drawn("t") in (True, False)
    book.failed("t")
    for _ in range(500):
        book.learn("t", True, 10, 80.0)
        book.learn("t", False, 10, 1.0)
    verdict = book.verdict("t")
    assert (verdict.outcome, verdict.failed, book.drawn("t")) == (Outcome.WORSE, True, None)
    book.keep_only(["other"])
    assert book.verdict("t").outcome is Outcome.UNDECIDED


# One request.

CONNECTED = {"x-1": "x", "x-2": "x", "y-1": "y"}
TRIALS = {"x-1": "x-1~trial"}
X, Y, BOTH = Arm(("x",)), Arm(("y",)), Arm(("x", "y"))


def seat(draw: float) -> tuple[TrialSeat, TrialBook]:
    book = TrialBook(Rule(), 8, lambda: draw)
    return TrialSeat(book), book


def test_the_one_on_trial_takes_the_others_place_and_never_comes_besides() -> None:
    drawn, _ = seat(0.0)
    assert drawn.named(Y, CONNECTED, TRIALS) == ("y",)
    assert drawn.named(BOTH, CONNECTED, TRIALS) == ("x-2", "y-1", "x-1~trial")
    assert drawn.named(X, CONNECTED, TRIALS) == ("x-2", "x-1~trial"), "who shares its name stays"
    assert drawn.replaces(X)
    assert not drawn.replaces(Y)
    assert drawn.named(X, CONNECTED, {}) == ("x",), "when it has gone the other is back"
    other, _ = seat(0.5)
    assert other.named(BOTH, CONNECTED, TRIALS) == ("x", "y")
    assert not other.replaces(BOTH)


def test_segments_count_for_both_sides_alike_and_only_while_both_are_there() -> None:
    for draw, segments in ((0.0, (2, 0)), (0.5, (0, 2))):
        one, book = seat(draw)
        one.segment(X, 1.5, CONNECTED, TRIALS)  # not seated yet
        one.named(X, CONNECTED, TRIALS)
        one.segment(X, 1.5, CONNECTED, TRIALS)
        one.segment(BOTH, 2.5, CONNECTED, TRIALS)
        one.segment(Y, 9.0, CONNECTED, TRIALS)
        one.segment(X, 9.0, CONNECTED, {})
        one.segment(X, 9.0, {"y-1": "y"}, TRIALS)
        one.close()
        one.close()
        verdict = book.verdict("x-1~trial")
        assert (verdict.trial.segments, verdict.before.segments) == segments
        assert verdict.trial.reward + verdict.before.reward == 4.0
        assert verdict.trial.requests + verdict.before.requests == 1


def test_refusals_count_if_they_are_of_the_one_on_trial() -> None:
    for drafter_id, failed in (("x-1", False), ("x-1~trial", True)):
        drawn, book = seat(0.0)
        drawn.named(X, CONNECTED, TRIALS)
        credit = generation_pb2.DrafterCredit(drafter_id=drafter_id, refused=1)
        drawn.heard(generation_pb2.Outcome(drafters=[credit]))
        assert book.verdict("x-1~trial").failed is failed


def test_a_trial_that_is_decided_gets_no_requests() -> None:
    drawn, book = seat(0.0)
    book.failed("x-1~trial")
    assert drawn.named(X, CONNECTED, TRIALS) == ("x",)
    assert not drawn.replaces(X)
