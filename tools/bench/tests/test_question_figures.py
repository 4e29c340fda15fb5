"""Figures that count questions alike, and Spec-Bench's, by hand."""

from __future__ import annotations

import pytest
from figures import OFF, ON, Measurement, figures
from question_figures import by_question, question_speeds, spec_bench


def answer(
    system: str,
    question: str,
    group: str,
    tokens: int,
    seconds: float,
    *,
    turn: int = 0,
    repeat: int = 0,
    steps: int = 1,
) -> Measurement:
    return Measurement(system, question, group, turn, repeat, tuple(range(tokens)), seconds, steps)


# Off: a 20 tokens in 2 s over two turns (10/s), b 30 in 1 s (30/s). On: a in 1 s (20/s), b in 1 s (30/s).
ONE_RUN = [
    answer(OFF, "a", "qa", 10, 0.5),
    answer(ON, "a", "qa", 10, 0.5, steps=3),
    answer(OFF, "a", "qa", 10, 1.5, turn=1),
    answer(ON, "a", "qa", 10, 0.5, turn=1, steps=3),
    answer(OFF, "b", "rag", 30, 1.0),
    answer(ON, "b", "rag", 30, 1.0, steps=29),
]


def test_a_question_is_all_its_turns() -> None:
    assert question_speeds([m for m in ONE_RUN if m.system == OFF]) == {"a": 10.0, "b": 30.0}


def test_the_speedup_is_the_quotient_of_two_means_over_questions() -> None:
    found = spec_bench(ONE_RUN)
    assert found is not None
    assert found["tokens_per_second"][OFF]["all"] == {"mean": 20.0, "sd": None, "runs": [20.0]}
    assert found["tokens_per_second"][ON]["all"]["mean"] == 25.0
    assert {group: its["mean"] for group, its in found["speedup"].items()} == {"all": 1.25, "qa": 2.0, "rag": 1.0}
    # Ours are other figures: all tokens by all time.
    assert figures(ONE_RUN)["ratios"]["on_over_off"]["all"] == 1.5


def test_mean_accepted_tokens_are_tokens_per_step_of_all_steps_together() -> None:
    found = spec_bench(ONE_RUN)
    assert found is not None
    assert found["mean_accepted_tokens"] == {"all": pytest.approx(47 / 35, abs=1e-4), "qa": 3.0, "rag": 1.0}
    per_step = figures(ONE_RUN)["tokens_per_step"]
    assert per_step == {group: round(value, 3) for group, value in found["mean_accepted_tokens"].items()}


def test_runs_are_averaged_and_an_interrupted_one_is_left_out() -> None:
    second = [answer(ON, "a", "qa", 10, 1.0, repeat=1), answer(OFF, "a", "qa", 10, 1.0, repeat=1)]
    first = [answer(ON, "a", "qa", 10, 0.5), answer(OFF, "a", "qa", 10, 1.0)]
    found = spec_bench(first + second)
    assert found is not None
    assert found["speedup"]["qa"] == {"mean": 1.5, "sd": 0.7071, "runs": [2.0, 1.0]}
    cut_short = [answer(ON, "a", "qa", 10, 9.0, repeat=1)]
    found = spec_bench(first + cut_short)
    assert found is not None
    assert found["speedup"]["qa"]["runs"] == [2.0]


def test_without_speculation_on_and_off_there_is_no_speedup() -> None:
    assert spec_bench([]) is None
    assert spec_bench([m for m in ONE_RUN if m.system == OFF]) is None
    assert "on_over_off" not in by_question([m for m in ONE_RUN if m.system == OFF])


def test_questions_differ_by_their_medians_over_repeats() -> None:
    again = [answer(ON, "a", "qa", 20, 2.0, repeat=1), answer(ON, "a", "qa", 20, 1.0, repeat=2)]
    found = by_question([*ONE_RUN, *again])
    assert found["on_over_off"]["all"] == {"median": 1.5, "quartiles": [1.25, 1.75], "range": [1.0, 2.0], "count": 2}
    assert found["tokens_per_second"][ON]["qa"]["median"] == 20.0  # of 20, 10 and 20
    assert found["on_over_off"]["rag"]["count"] == 1
