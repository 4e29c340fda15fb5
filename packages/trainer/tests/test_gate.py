"""The gate: useless revisions are kept out, good ones are let through, at rates that can be computed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.trainer.online.gate import Gate, Scores


def scores(right: list[int], tokens: list[int]) -> Scores:
    return Scores(np.array(right, np.int64), np.array(tokens, np.int64))


def test_a_small_case_by_hand() -> None:
    # 10 tokens in each of 4 lessons; one more is right in three of them: the gain is 3/40. Differences 1, 1, 1, 0 less
    # 3/40 of 10 each: .25, .25, .25, -.75; squares sum to .75; the error is sqrt(4/3 * .75) / 40 = 1/40.
    before, after = scores([5, 5, 5, 5], [10] * 4), scores([6, 6, 6, 5], [10] * 4)
    gate = Gate(least_lessons=4, least_tokens=40, least_gain=0.0, sigmas=2.9)
    verdict = gate.judge(before, after)
    assert (verdict.before, verdict.after, verdict.passes) == (0.5, 0.575, True)
    assert verdict.error == pytest.approx(1 / 40)
    assert not Gate(least_lessons=4, least_tokens=40, least_gain=0.0, sigmas=3.1).judge(before, after).passes
    assert not Gate(least_lessons=4, least_tokens=40, least_gain=0.08, sigmas=0.0).judge(before, after).passes


def test_too_little_to_judge_by_passes_nothing() -> None:
    gate = Gate(least_lessons=5, least_tokens=1, sigmas=0.0)
    verdict = gate.judge(scores([0] * 4, [10] * 4), scores([10] * 4, [10] * 4))
    assert not verdict.passes
    assert "at least 5 lessons" in verdict.why
    assert not Gate().judge(scores([], []), scores([], [])).passes


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=8, max_size=40))
def test_a_revision_does_not_beat_itself_nor_both_each_other(pairs: list[tuple[int, int]]) -> None:
    tokens = [64] * len(pairs)
    some, other = scores([a for a, _ in pairs], tokens), scores([b for _, b in pairs], tokens)
    gate = Gate(least_tokens=64)
    assert not gate.judge(some, some).passes
    assert not (gate.judge(some, other).passes and gate.judge(other, some).passes)


@pytest.mark.parametrize(("gain", "least", "most"), [(0.0, 0.05, 0.25), (0.03, 0.9, 1.0), (-0.03, 0.0, 0.01)])
def test_how_often_it_errs(gain: float, least: float, most: float) -> None:
    """Lessons of 100 tokens that differ in how hard they are; both drafters find the same ones hard."""
    random = np.random.default_rng(5)
    passed = 0
    for _ in range(300):
        ease = random.beta(4, 4, 64)
        before = random.binomial(100, ease)
        after = random.binomial(100, np.clip(ease + gain, 0, 1))
        verdict = Gate().judge(scores(list(before), [100] * 64), scores(list(after), [100] * 64))
        passed += verdict.passes
    assert least <= passed / 300 <= most


def test_scores_of_different_lessons_are_not_compared() -> None:
    with pytest.raises(ValueError, match="same lessons"):
        Gate().judge(scores([1], [2]), scores([1], [3]))
