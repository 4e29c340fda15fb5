"""Figures of routing, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from routing_figures import against_best_fixed, best_fixed_regret, curve, points_of, regret, share_of, summary
from routing_scenes import Episode

from paceline.router.arms import PLAIN, Arm

A, B = Arm(("a",)), Arm(("b",))
TIMES = np.array([[1.0, 0.5, 2.0], [1.0, 0.5, 0.25], [1.0, 0.5, 2.0], [1.0, 2.0, 2.0]])
EXPECTED = 2.0 - TIMES
THERE = np.array([[True, True, True], [True, True, True], [True, False, True], [True, True, True]])
INSTEAD = np.array([[0, 1, 2], [0, 1, 2], [0, 0, 2], [0, 1, 2]])
NOTHING = np.zeros((4, 3))
EPISODE = Episode(
    (PLAIN, A, B), EXPECTED, EXPECTED, EXPECTED, EXPECTED, [()] * 4, NOTHING, np.ones(4, dtype=np.bool_), THERE, INSTEAD
)


def test_the_oracle_takes_the_best_arm_that_is_there_and_a_fixed_arm_what_is_left_of_it() -> None:
    assert EPISODE.of_oracle.tolist() == [1.5, 1.75, 1.0, 1.0]
    assert (2.0 - EPISODE.of_fixed).sum(axis=0).tolist() == [4.0, 4.0, 6.25]
    assert best_fixed_regret(EPISODE) == ("none", pytest.approx(1 - 2.75 / 4))


def test_regret_is_the_share_of_the_oracle_that_was_missed() -> None:
    perfect, plain = np.array([1, 2, 0, 0]), np.zeros(4, dtype=np.int64)
    assert regret(EPISODE, perfect) == 0.0
    assert against_best_fixed(EPISODE, perfect) == pytest.approx(1 - 4 / 2.75)
    assert regret(EPISODE, plain) == pytest.approx(1 - 2.75 / 4)
    assert curve(EPISODE, plain) == pytest.approx([1 - 0.5 / 1, 1 - 0.75 / 2, 1 - 1.75 / 3, 1 - 2.75 / 4])
    assert share_of("b", EPISODE, perfect) == 0.25
    found = summary([EPISODE, EPISODE], [perfect, plain])
    assert found == {
        "regret": round((1 - 2.75 / 4) / 2, 4),
        "share_of_oracle": round(1 - (1 - 2.75 / 4) / 2, 4),
        "regret_against_best_fixed": round((1 - 4 / 2.75 + 0.0) / 2, 4),
        "spread": [0.0, round(1 - 2.75 / 4, 4)],
    }


def test_a_curve_has_few_points_the_last_of_them_at_the_end() -> None:
    assert points_of(5).tolist() == [1, 2, 3, 4, 5]
    assert len(points_of(2000)) == 40
    assert points_of(2000)[-1] == 2000
