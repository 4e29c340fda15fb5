"""How much somebody may ask for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.verifier.allowance import Allowance

steps = st.lists(st.tuples(st.floats(0.0, 3.0), st.floats(0.01, 2.0)), max_size=50)


@given(steps, st.floats(0.1, 5.0), st.floats(0.5, 5.0))
def test_no_more_is_given_than_grew(asked, rate, most):
    allowance, now, given_out = Allowance(rate, most), 100.0, 0.0
    for passed, amount in asked:
        now += passed
        given_out += amount if allowance.take(now, amount) else 0.0
        assert given_out <= most + rate * (now - 100.0) + 1e-9


@given(steps, st.floats(0.1, 5.0), st.floats(0.5, 5.0))
def test_one_who_pauses_as_told_stays_within_the_rate(asked, rate, most):
    allowance, now, taken = Allowance(rate, most), 100.0, 0.0
    for passed, amount in asked:
        now += passed
        taken += amount
        now += allowance.overdraw(now, amount)
        assert taken <= most + rate * (now - 100.0) + 1e-9


def test_a_pause_leaves_something_to_go_on_with():
    allowance = Allowance(rate=10.0, most=5.0)
    assert allowance.overdraw(0.0, 5.0) == 0.0
    assert allowance.overdraw(0.0, 1.0) == pytest.approx((1.0 + 0.5) / 10.0)
    assert allowance.overdraw(0.15, 0.5) == 0.0
    assert allowance.overdraw(0.15, 0.5) > 0.0
