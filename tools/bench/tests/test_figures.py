"""Figures from measurements."""

from __future__ import annotations

import pytest
from figures import LOOKUP, OFF, ON, PLAIN, Crowd, Measurement, all_identical, figures

TEN = tuple(range(10))


def one(
    system: str = OFF,
    question: str = "q",
    group: str = "qa",
    *,
    ids: tuple[int, ...] = TEN,
    seconds: float = 1.0,
    steps: int = 9,
    turn: int = 0,
    repeat: int = 0,
) -> Measurement:
    return Measurement(system, question, group, turn, repeat, ids, seconds, steps)


def test_a_groups_speed_is_its_tokens_by_its_time() -> None:
    measured = [
        one(question="a", seconds=1.0),
        one(question="b", seconds=4.0, ids=TEN * 3),
        one(question="c", group="rag", seconds=5.0),
    ]
    assert figures(measured)["tokens_per_second"] == {OFF: {"all": 5.0, "qa": 8.0, "rag": 2.0}}


def test_what_was_not_measured_is_absent() -> None:
    report = figures([one(OFF), one(ON)])
    assert list(report["tokens_per_second"]) == [OFF, ON]
    assert list(report["ratios"]) == ["on_over_off"]
    assert list(report["identical"]) == ["paceline"]
    assert report["concurrency"] == {}


def test_ratios_are_of_the_same_group() -> None:
    seconds = {PLAIN: 6.0, LOOKUP: 3.0, OFF: 2.0, ON: 1.0}
    report = figures([one(system, seconds=spent) for system, spent in seconds.items()])
    assert report["ratios"] == {
        "on_over_off": {"all": 2.0, "qa": 2.0},
        "on_over_prompt_lookup": {"all": 3.0, "qa": 3.0},
        "off_over_transformers_plain": {"all": 3.0, "qa": 3.0},
    }


def test_an_answers_time_is_the_median_of_its_repeats_and_the_spread_shows_the_others() -> None:
    measured = [
        one(question=question, seconds=seconds, repeat=repeat)
        for question, times in {"a": (1.0, 1.0, 9.0), "b": (9.0, 1.0, 1.0)}.items()
        for repeat, seconds in enumerate(times)
    ]
    report = figures(measured)
    assert report["tokens_per_second"][OFF]["all"] == 10.0
    assert report["spread"]["tokens_per_second"][OFF]["all"] == [2.0, 10.0]
    assert report["tokens"] == {OFF: 20}


def test_the_spread_of_a_ratio_is_over_the_repeats() -> None:
    measured = [
        one(system, seconds=seconds, repeat=repeat)
        for system, times in {OFF: (2.0, 4.0), ON: (1.0, 1.0)}.items()
        for repeat, seconds in enumerate(times)
    ]
    report = figures(measured)
    assert report["spread"]["ratios"]["on_over_off"] == {"all": [2.0, 4.0], "qa": [2.0, 4.0]}
    assert report["ratios"]["on_over_off"]["all"] == 3.0


def test_a_repeat_that_was_interrupted_has_no_part_in_the_spread() -> None:
    measured = [one(question="a"), one(question="b"), one(question="a", repeat=1, seconds=100.0)]
    assert figures(measured)["spread"]["tokens_per_second"][OFF]["all"] == [10.0, 10.0]


def test_the_first_token_of_an_answer_needs_no_step() -> None:
    on = [one(ON, "a", steps=3), one(ON, "b", steps=6), one(ON, "c", "rag", ids=(1,), steps=0)]
    measured = [*on, *(one(OFF, m.question_id, m.group, ids=m.ids) for m in on)]
    assert figures(measured)["tokens_per_step"] == {"all": 2.0, "qa": 2.0, "rag": 1.0}


def test_identical_counts_answers_that_agree_in_every_repeat() -> None:
    other = (*TEN[:4], 99)
    measured = [
        *(one(system, "a", turn=turn, repeat=repeat) for system in (OFF, ON) for turn in (0, 1) for repeat in (0, 1)),
        *(one(OFF, "b", repeat=repeat) for repeat in (0, 1)),
        one(ON, "b", repeat=0),
        one(ON, "b", repeat=1, ids=other),
        one(PLAIN, "a", ids=TEN[:3]),
        one(LOOKUP, "a"),
    ]
    report = figures(measured)
    assert report["identical"] == {"paceline": [2, 3], LOOKUP: [0, 1]}
    assert report["different"] == [{"question_id": "b", "turn": 0, "token": 4}]
    assert not all_identical(report)


@pytest.mark.parametrize(("ids", "at"), [((), 0), (TEN[:7], 7), ((*TEN, 1), 10)])
def test_a_longer_or_shorter_answer_differs_where_one_ends(ids: tuple[int, ...], at: int) -> None:
    assert figures([one(OFF), one(ON, ids=ids)])["different"] == [{"question_id": "q", "turn": 0, "token": at}]


def test_several_at_once_are_compared_with_one_at_a_time() -> None:
    measured = [one(OFF, seconds=2.0), one(ON, seconds=1.0)]
    crowds = [
        Crowd(8, OFF, 0, 100, 5.0, 1, 1),
        Crowd(8, ON, 0, 100, 4.0, 1, 1),
        Crowd(8, OFF, 1, 100, 2.0, 1, 1),
        Crowd(8, ON, 1, 100, 4.0, 0, 1),
        Crowd(8, OFF, 2, 100, 10.0, 1, 1),
        Crowd(8, ON, 2, 100, 4.0, 1, 1),
    ]
    report = figures(measured, crowds)
    assert report["concurrency"] == {
        "8": {
            "off": {"tokens_per_second": 20.0, "over_one": 4.0, "identical": [1, 1]},
            "on": {"tokens_per_second": 25.0, "over_one": 2.5, "identical": [0, 1]},
            "on_over_off": 1.25,
        }
    }
    assert not all_identical(report)
    assert all_identical(figures(measured, crowds[:3]))
