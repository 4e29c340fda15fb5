"""Median, quartiles and range, by hand."""

from __future__ import annotations

from distribution import distribution, mean_and_deviation
from hypothesis import given, settings
from hypothesis import strategies as st

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30)


def test_quartiles_lie_between_neighbours() -> None:
    assert distribution([4.0, 1.0, 3.0, 2.0]) == {
        "median": 2.5,
        "quartiles": [1.75, 3.25],
        "range": [1.0, 4.0],
        "count": 4,
    }
    assert distribution([5.0, 1.0, 2.0, 4.0, 3.0])["quartiles"] == [2.0, 4.0]


def test_a_lone_value_is_everything() -> None:
    assert distribution([2.0]) == {"median": 2.0, "quartiles": [2.0, 2.0], "range": [2.0, 2.0], "count": 1}
    assert mean_and_deviation([2.0]) == {"mean": 2.0, "sd": None, "runs": [2.0]}


def test_the_deviation_is_that_of_a_sample() -> None:
    assert mean_and_deviation([1.0, 2.0, 6.0]) == {"mean": 3.0, "sd": 2.6458, "runs": [1.0, 2.0, 6.0]}


@settings(max_examples=50, deadline=None)
@given(VALUES)
def test_they_are_in_order(values: list[float]) -> None:
    found = distribution(values)
    (least, greatest), (first, third) = found["range"], found["quartiles"]
    assert least <= first <= found["median"] <= third <= greatest
