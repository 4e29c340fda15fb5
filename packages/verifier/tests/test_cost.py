"""The cost of a forward pass."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.verifier.cost import ROW_COUNTS, ForwardCost, measure

times = st.lists(st.floats(1e-4, 1.0), min_size=len(ROW_COUNTS), max_size=len(ROW_COUNTS))
observations = st.lists(st.tuples(st.integers(1, 300), st.floats(1e-5, 10.0)), max_size=60)


@given(times, observations)
def test_more_rows_never_cost_less_whatever_was_measured(seconds, seen):
    cost = ForwardCost(ROW_COUNTS, seconds)
    for rows, took in seen:
        cost.observe(rows, took)
    estimates = [cost.seconds(rows) for rows in range(1, 300)]
    assert all(earlier <= later * (1 + 1e-12) for earlier, later in pairwise(estimates))
    assert estimates[0] > 0


@given(times)
def test_between_measurements_the_estimate_is_linear(seconds):
    cost = ForwardCost(ROW_COUNTS, sorted(seconds))
    for rows, took in zip(ROW_COUNTS, sorted(seconds), strict=True):
        assert cost.seconds(rows) == pytest.approx(took)
    assert cost.seconds(24) == pytest.approx((cost.seconds(16) + cost.seconds(32)) / 2)
    slope = cost.seconds(128) - cost.seconds(127)
    assert cost.seconds(138) - cost.seconds(128) == pytest.approx(10 * slope, abs=1e-9)


def test_follows_a_machine_that_became_slower_and_one_outlier_moves_it_little():
    cost = ForwardCost((1, 8, 64), (0.01, 0.02, 0.1))
    cost.observe(8, 100.0)
    assert cost.seconds(8) < 0.0211
    for _ in range(300):
        cost.observe(8, 0.06)
    assert cost.seconds(8) == pytest.approx(0.06, rel=0.02)
    assert cost.seconds(1) == 0.01


def test_a_measurement_below_its_left_neighbour_stays_there_while_that_is_what_is_seen():
    cost = ForwardCost((1, 2, 8), (0.010, 0.008, 0.02))
    for _ in range(1000):
        cost.observe(2, 0.008)
    cost.observe(1, 0.005)
    for _ in range(100):
        cost.observe(1, 0.005)
    assert cost.seconds(2) > 0.0075


@given(times, st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12))
def test_candidates_below_the_least_value_never_pay_however_many_there_are(seconds, shares):
    cost = ForwardCost(ROW_COUNTS, seconds)
    values = sorted((share * cost.least_value * 0.999 for share in shares), reverse=True)
    plain = 1.0 / cost.seconds(1)
    for count in range(1, len(values) + 1):
        assert (1.0 + sum(values[:count])) / cost.seconds(1 + count) <= plain * (1 + 1e-9)


def test_measure_takes_the_median_of_each_row_count():
    answers = iter([9.0, 1.0, 2.0] * len(ROW_COUNTS))
    asked: list[int] = []

    def forward(rows: int) -> float:
        asked.append(rows)
        return next(answers)

    assert measure(forward).knots == [2.0] * len(ROW_COUNTS)
    assert asked == [rows for rows in ROW_COUNTS for _ in range(3)]


@pytest.mark.parametrize("rows", [(1,), (1, 2, 3), (2, 1), (1, 1)])
def test_nonsense_is_refused(rows):
    seconds = (1.0, 1.0)
    with pytest.raises(ValueError, match="rising row counts"):
        ForwardCost(rows, seconds)
