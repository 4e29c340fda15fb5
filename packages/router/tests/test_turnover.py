"""When to come back: how soon places become free, for as many as wait."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.router.turnover import LONGEST_S, SHORTEST_S, UNKNOWN_S, Turnover


def full(num_present: int, stay_s: float) -> Turnover:
    turnover = Turnover()
    for _ in range(num_present + 1):
        turnover.came()
    turnover.left(stay_s)
    return turnover


def test_before_anybody_left_nothing_is_known() -> None:
    turnover = Turnover()
    assert turnover.turned_away() == UNKNOWN_S
    turnover.came()
    assert turnover.turned_away() == UNKNOWN_S


def test_one_of_four_that_stay_eight_seconds_leaves_every_two_and_lets_one_in_each() -> None:
    turnover = full(4, 8.0)
    assert [turnover.turned_away() for _ in range(3)] == pytest.approx([2.0, 4.0, 6.0])
    turnover.came()
    turnover.left(8.0)
    assert turnover.turned_away() == pytest.approx(6.0)


def test_who_was_refused_says_nothing_of_how_long_others_stay() -> None:
    turnover = full(4, 8.0)
    for _ in range(100):
        turnover.came()
        turnover.left(None)
    assert turnover.turned_away() == pytest.approx(2.0)


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), st.floats(0.0, 1e6)), max_size=50))
def test_the_hint_is_always_within_its_bounds(stays: list[float | None]) -> None:
    turnover = Turnover()
    for stay_s in stays:
        turnover.came()
        turnover.came()
        turnover.left(stay_s)
        assert SHORTEST_S <= turnover.turned_away() <= LONGEST_S
