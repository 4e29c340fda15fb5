"""Whether a step waits for drafts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.verifier.waiting import MAX_WAIT_S, Gain, Latency, Pending, Promise, Waiting, worthwhile_wait


def bringing(tokens: float, seconds: float = 0.0) -> Gain:
    """Of a drafter whose answers always add as much."""
    gain = Gain()
    for before in (1.0, 1.5, 2.0, 3.0, 9.0):
        for _ in range(400):
            gain.observe(Promise(before, 0.02), Promise(before + tokens, 0.02 + seconds))
    return gain


def wait_of(*pending: Pending, expected_tokens: float = 1.0, step_s: float = 0.02) -> float:
    return worthwhile_wait([Waiting(expected_tokens, pending)], step_s)


GAINS = [bringing(tokens, seconds) for tokens in (0.0, 0.3, 1.0, 4.0) for seconds in (0.0, 0.004)]
pendings = st.lists(st.builds(Pending, st.floats(0.0005, 1.0), st.sampled_from(GAINS)), max_size=4)


@given(st.lists(st.builds(Waiting, st.floats(1.0, 50.0), pendings), min_size=1, max_size=3), st.floats(0.001, 1.0))
def test_waits_for_the_arrivals_that_make_the_best_rate(sessions, step_s):
    def rate(wait_s: float) -> float:
        tokens, seconds = 0.0, step_s
        for session in sessions:
            promised = session.tokens
            for draft in sorted(session.pending, key=lambda draft: draft.arrives_in_s):
                if draft.arrives_in_s <= wait_s:
                    added = draft.added(promised)
                    promised, seconds = promised + added.tokens, seconds + added.seconds
            tokens += promised
        return tokens / (seconds + wait_s)

    wait_s = worthwhile_wait(sessions, step_s)
    drafts = [draft for session in sessions for draft in session.pending]
    moments = {0.0, *(draft.arrives_in_s for draft in drafts if draft.arrives_in_s <= MAX_WAIT_S)}
    assert wait_s in moments
    assert rate(wait_s) == pytest.approx(max(rate(moment) for moment in moments))


def test_a_fast_useful_drafter_is_waited_for():
    assert wait_of(Pending(0.003, bringing(1.5))) == 0.003


def test_a_slow_or_useless_drafter_is_not():
    assert wait_of(Pending(0.2, bringing(1.5))) == 0.0
    assert wait_of(Pending(0.003, bringing(0.05))) == 0.0


def test_candidates_whose_verification_takes_as_long_as_they_save_are_not_waited_for():
    assert wait_of(Pending(0.003, bringing(0.5))) > 0.0
    assert wait_of(Pending(0.003, bringing(0.5, seconds=0.01))) == 0.0


def test_what_it_brings_is_known_by_what_is_there_already():
    """A drafter that is worth much where nothing else is, and nothing beside others."""
    gain = Gain()
    for _ in range(50):
        gain.observe(Promise(1.1, 0.02), Promise(2.1, 0.022))
        gain.observe(Promise(5.0, 0.03), Promise(5.0, 0.03))
    assert wait_of(Pending(0.004, gain), expected_tokens=1.1) > 0.0
    assert wait_of(Pending(0.004, gain), expected_tokens=5.0) == 0.0


def test_what_is_hoped_for_is_waited_for():
    assert wait_of(Pending(0.01, bringing(0.0), hoped=8.0)) == 0.01


def test_nobody_waits_for_one_drafter_when_the_batch_has_much_to_do():
    assert wait_of(Pending(0.003, bringing(1.0)), expected_tokens=8.0) == 0.0
    others = [Waiting(1.0, ())] * 7
    assert worthwhile_wait([Waiting(1.0, [Pending(0.003, bringing(1.0))]), *others], 0.02) == 0.0


def test_what_comes_later_than_the_longest_wait_is_not_waited_for_however_huge_its_gain():
    late = Pending(MAX_WAIT_S + 0.01, bringing(1e6))
    assert wait_of(late) == 0.0
    assert wait_of(late, Pending(0.003, bringing(1.5))) == 0.003


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
        gain.observe(Promise(1.0, 0.02), Promise(1.0 + accepted, 0.02))
        waits.append(wait_of(Pending(0.004, gain)) > 0)
    assert waits[0]
    assert not waits[79]
    assert waits[159]


def test_waits_in_vain_make_less_of_it():
    gain = Gain()
    for _ in range(100):
        gain.waited_in_vain(0.25)
    assert gain.at(1.0).tokens < 0.1
