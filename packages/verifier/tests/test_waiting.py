"""Whether a step waits for drafts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.verifier.waiting import MAX_WAIT_S, Gain, Latency, Pending, worthwhile_wait

pendings = st.lists(st.builds(Pending, st.floats(0.0005, 1.0), st.floats(0.0, 5.0)), max_size=5)


@given(pendings, st.floats(1.0, 50.0), st.floats(0.001, 1.0))
def test_waits_for_the_arrivals_that_make_the_best_rate(pending, expected_tokens, step_s):
    def rate(wait_s: float) -> float:
        gain = sum(draft.gain for draft in pending if draft.arrives_in_s <= wait_s)
        return (expected_tokens + gain) / (step_s + wait_s)

    wait_s = worthwhile_wait(pending, expected_tokens, step_s)
    moments = {0.0, *(draft.arrives_in_s for draft in pending if draft.arrives_in_s <= MAX_WAIT_S)}
    assert wait_s in moments
    assert rate(wait_s) == pytest.approx(max(rate(moment) for moment in moments))


def test_a_fast_useful_drafter_is_waited_for():
    assert worthwhile_wait([Pending(0.003, 1.5)], expected_tokens=1.0, step_s=0.02) == 0.003


def test_a_slow_or_useless_drafter_is_not():
    assert worthwhile_wait([Pending(0.2, 1.5)], expected_tokens=1.0, step_s=0.02) == 0.0
    assert worthwhile_wait([Pending(0.003, 0.05)], expected_tokens=1.0, step_s=0.02) == 0.0


def test_nobody_waits_for_one_drafter_when_the_batch_has_much_to_do():
    assert worthwhile_wait([Pending(0.003, 1.0)], expected_tokens=8.0, step_s=0.02) == 0.0


def test_what_comes_later_than_the_longest_wait_is_not_waited_for_however_huge_its_gain():
    late = Pending(MAX_WAIT_S + 0.01, 1e6)
    assert worthwhile_wait([late], expected_tokens=1.0, step_s=0.02) == 0.0
    assert worthwhile_wait([late, Pending(0.003, 1.5)], expected_tokens=1.0, step_s=0.02) == 0.003


def test_latency_converges_and_patience_is_longer_where_it_varies():
    steady, shaky = Latency(), Latency()
    for turn in range(200):
        steady.observe(0.02)
        shaky.observe(0.01 if turn % 2 else 0.03)
    assert steady.mean_s == pytest.approx(0.02, rel=1e-3)
    assert shaky.mean_s == pytest.approx(0.02, rel=0.2)
    assert steady.patience_s == pytest.approx(0.02, rel=0.05)
    assert shaky.patience_s > 0.035


def test_gain_of_a_useless_drafter_falls_until_nobody_waits_and_rises_again_when_it_turns_useful():
    gain = Gain()
    waits = []
    for accepted in [0] * 80 + [2] * 80:
        gain.observe(accepted)
        waits.append(worthwhile_wait([Pending(0.004, gain.tokens)], expected_tokens=1.0, step_s=0.02) > 0)
    assert waits[0]
    assert not waits[79]
    assert waits[159]
