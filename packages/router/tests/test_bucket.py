"""Laws of a bucket: it lets no more through than flowed in, and what it says of waiting is true."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.router.access.bucket import Bucket

PER_MINUTE = st.integers(1, 1_000_000)
PAUSE_S = st.floats(0.0, 600.0)
SLACK = 1e-3


@given(PER_MINUTE, st.lists(st.tuples(PAUSE_S, st.integers(1, 100)), max_size=60))
def test_over_any_stretch_no_more_is_let_through_than_flowed_in(
    per_minute: int, asked: list[tuple[float, int]]
) -> None:
    now_s = 1e5
    bucket = Bucket(per_minute, now_s)
    taken: list[tuple[float, int]] = []
    for pause_s, amount in asked:
        now_s += pause_s
        if bucket.wait_s(amount, now_s) == 0.0:
            bucket.take(amount, now_s)
            taken.append((now_s, amount))
    for first, (begin_s, _) in enumerate(taken):
        for last, (end_s, _) in enumerate(taken[first:], first):
            through = sum(amount for _, amount in taken[first : last + 1])
            assert through <= per_minute + (end_s - begin_s) * per_minute / 60.0 + SLACK


@given(PER_MINUTE, st.floats(0.0, 1e7), st.integers(1, 1_000_000), PAUSE_S)
def test_who_waits_as_long_as_told_finds_it_and_a_little_less_is_too_early(
    per_minute: int, used: float, amount: int, pause_s: float
) -> None:
    bucket = Bucket(per_minute, 0.0)
    bucket.take(used, 0.0)
    wait_s = bucket.wait_s(amount, pause_s)
    if amount > per_minute:
        assert wait_s == math.inf
        return
    assert bucket.wait_s(amount, pause_s + wait_s * 0.99) > 0.0 or wait_s <= SLACK
    assert bucket.level(pause_s + wait_s) >= amount - SLACK


@given(PER_MINUTE, st.floats(0.0, 1e6), st.integers(1, 1000), PAUSE_S)
def test_what_is_given_back_was_never_taken(per_minute: int, used: float, amount: int, pause_s: float) -> None:
    one, other = Bucket(per_minute, 0.0), Bucket(per_minute, 0.0)
    for bucket in (one, other):
        bucket.take(used, 0.0)
    one.take(amount, pause_s)
    one.give_back(amount, pause_s)
    assert one.level(pause_s) == pytest.approx(other.level(pause_s), abs=SLACK)


@given(PER_MINUTE, st.integers(0, 10_000), PAUSE_S)
def test_giving_back_never_overfills(per_minute: int, amount: int, pause_s: float) -> None:
    bucket = Bucket(per_minute, 0.0)
    bucket.give_back(amount, pause_s)
    assert bucket.level(pause_s) == per_minute


@given(PER_MINUTE, PER_MINUTE, st.floats(0.0, 1e6))
def test_another_rate_changes_nothing_of_how_long_it_takes_to_be_full(before: int, after: int, used: float) -> None:
    bucket = Bucket(before, 0.0)
    bucket.take(used, 0.0)
    wait_s = bucket.wait_s(before, 0.0)
    bucket.resize(after, 0.0)
    assert bucket.capacity == after
    assert bucket.wait_s(after, 0.0) == pytest.approx(wait_s, rel=1e-6, abs=60.0 * SLACK)


def test_a_clock_that_goes_back_is_no_time_and_no_time_is_given_twice() -> None:
    bucket = Bucket(60, 100.0)
    bucket.take(60, 100.0)
    assert bucket.level(50.0) == 0.0
    assert bucket.level(101.0) == pytest.approx(1.0)
    assert bucket.level(100.0) == pytest.approx(1.0)
    assert bucket.level(101.0) == pytest.approx(1.0)
