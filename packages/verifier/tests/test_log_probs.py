"""Log-probabilities of one row."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from paceline.verifier.model.log_probs import log_probs_of

ROWS = arrays.arrays(np.float32, st.integers(1, 60), elements=st.integers(-8, 8).map(lambda value: value / 4))


@given(ROWS, st.data())
def test_the_best_come_in_order_and_ties_by_id(row, data):
    token = data.draw(st.integers(0, len(row) - 1))
    count = data.draw(st.integers(0, 70))
    told = log_probs_of(row, token, count)
    ranked = sorted(range(len(row)), key=lambda other: (-row[other], other))[:count]
    assert [other for other, _ in told.top] == ranked
    sums = math.log(math.fsum(math.exp(value) for value in row.tolist()))
    assert told.log_prob == pytest.approx(float(row[token]) - sums, abs=1e-6)
    assert all(log_prob == pytest.approx(float(row[other]) - sums, abs=1e-6) for other, log_prob in told.top)
    assert dict(told.top).get(token, told.log_prob) == told.log_prob


def test_extreme_rows_have_figures_that_float32_holds():
    row = np.array([1e4, -1e4, float("-inf"), 1e4], dtype=np.float32)
    told = log_probs_of(row, 1, 4)
    assert told.log_prob == pytest.approx(-2e4 - math.log(2), abs=1e-3)
    assert [other for other, _ in told.top] == [0, 3, 1, 2]
    assert told.top[3][1] == float("-inf")
    certain = log_probs_of(np.array([0.0, 90.0], dtype=np.float32), 1, 0)
    assert (certain.log_prob, certain.top) == (0.0, ())


def test_many_small_terms_are_not_lost():
    row = np.zeros(150_000, dtype=np.float32)
    assert log_probs_of(row, 3, 0).log_prob == np.float32(-math.log(150_000))
