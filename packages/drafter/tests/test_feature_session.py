"""One session on a feature head: which states its rows are told, and what commits leave of them."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from fake_head import (
    CUT,
    DEPTH,
    KIND,
    NEEDS,
    TARGET_VOCAB,
    FakeHead,
    features_of,
    greedy,
    logits_at,
    session_on,
    states_of,
)
from fake_head import next_state as state_after
from fake_model import Never
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.drafter import feature_session
from paceline.drafter.feature_session import FeatureSession
from paceline.drafter.features import FeatureNeeds, Features
from paceline.drafter.stopping.base import Times
from paceline.drafter.strategies.base import Budget, Sampling
from paceline.drafter.trees.base import Shape
from paceline.drafter.trees.chain import Chain
from paceline.drafter.trees.eagle2 import Eagle2
from paceline.drafter.trees.opt_tree import OptTree

BUDGET = Budget(max_nodes=24, max_depth=16)
PROMPT = [3, 50, 12, 59, 0, 33]  # 50 and 0 were cut


def run(head: FakeHead, session: FeatureSession, ahead: bool = False, passes: int = 1000) -> None:
    for _ in range(passes):
        rows = session.next_rows(BUDGET, Times(), ahead)
        if rows is None:
            return
        session.absorb(head.score([rows])[0])


def commit(session: FeatureSession, text: list[int], tokens: Sequence[int], first: int | None = None) -> None:
    """The verifier commits tokens and tells what it has read since, or from `first` on."""
    start = len(text) - 1 if first is None else first
    text += tokens
    session.observe(tokens, features_of(text, start))


def opened(head: FakeHead, prompt: Sequence[int] = PROMPT, **options: object) -> tuple[FeatureSession, list[int]]:
    """A session after its first commit, which brings the states of the prompt."""
    session, text = session_on(head, prompt, **options), list(prompt)  # type: ignore[arg-type]
    run(head, session)
    assert not len(session.candidates(BUDGET)), "nothing is known yet"
    assert not head.passes
    commit(session, text, greedy(text, 1), first=0)
    return session, text


def check_tree(session: FeatureSession, text: Sequence[int]) -> None:
    """What the tree says is what the target says."""
    for index, node in enumerate(session.tree.nodes):
        if node.successors is None:
            continue
        state = states_of(text)[-1]
        for token in session.tree.tokens(index):
            state = state_after(state, token)
        logits = logits_at(state).astype(np.float64)
        assert node.successors.tokens.tolist() == np.argsort(-logits, kind="stable")[: len(node.successors)].tolist()


def test_each_row_is_told_the_state_before_its_token():
    head = FakeHead()
    session, text = opened(head)
    rows = session.next_rows(BUDGET, Times())
    assert rows is not None
    assert rows.features is not None
    assert rows.tokens.tolist() == KIND.draft_ids[text[1:]].tolist(), "before the first token the target has no state"
    assert rows.features[:, 0].tolist() == states_of(text)[:-1]
    assert rows.wanted == (len(text) - 2,)


def test_rows_of_a_tree_are_told_the_heads_own_state_of_their_parent():
    head = FakeHead()
    session, _ = opened(head, policy=Eagle2(Shape(3, 4)))
    run(head, session, passes=1)
    second = session.next_rows(BUDGET, Times())
    assert second is not None
    assert second.above is not None
    assert set(second.above.tolist()) == {session._num_cached - 1}, "the root's children follow the text's last row"
    session.absorb(head.score([second])[0])
    third = session.next_rows(BUDGET, Times())
    assert third is not None
    assert third.above is not None
    parents = [session.tree.nodes[session.tree.nodes[node].parent] for node in session._growing._running]
    assert third.above.tolist() == [parent.row for parent in parents]


@pytest.mark.parametrize("shift", [-1, 1])
def test_states_of_the_position_beside_would_show(shift: int):
    """The classic mistake. Of use only if it doesn't pass unseen here."""
    head, text = FakeHead(), [*PROMPT, *greedy(PROMPT, 4)]
    session = session_on(head, text[:-1])
    true = features_of(text, 1)
    session.observe(text[-1:], Features(true.first, np.roll(true.values, shift, axis=0)))
    with pytest.raises(AssertionError, match="the state of what it follows"):
        run(head, session)


def test_a_head_that_is_the_target_in_disguise_is_right_down_to_the_bottom():
    head = FakeHead()
    session, text = opened(head)
    for _ in range(6):
        run(head, session)
        drafted = session.candidates(BUDGET)
        assert drafted.tokens == greedy(text, DEPTH)
        assert drafted.parents == [-1, 0, 1, 2, 3, 4]
        commit(session, text, greedy(text, DEPTH + 1))  # all of them, and the token that the target adds


def test_what_was_committed_is_run_again_with_true_states_and_the_root_with_it():
    head = FakeHead()
    session, text = opened(head)
    run(head, session)
    assert head.passes == [len(PROMPT), *[1] * (DEPTH - 1)]
    assert session.num_rows == len(PROMPT) + DEPTH - 1
    head.passes.clear()
    commit(session, text, greedy(text, 3))
    assert session.tree.root.successors is None, "the tree begins anew"
    run(head, session)
    assert head.passes == [3, *[1] * (DEPTH - 1)]


@given(st.integers(0, 10_000), st.sampled_from([Chain, Eagle2, OptTree]), st.booleans())
@settings(max_examples=80, deadline=None)
def test_whatever_is_committed_and_told_the_tree_stays_true(seed: int, policy: type, ahead: bool):
    """Commits at any time, states that come late, are missing, begin behind a gap or are told again."""
    rng = random.Random(seed)
    head, text = FakeHead(max_length=40), [rng.randrange(TARGET_VOCAB) for _ in range(rng.randrange(1, 30))]
    session = session_on(head, text, policy(Shape(3, 4)))
    read = told = 0  # the first position that the verifier hasn't read, and that it hasn't told
    for _ in range(20):
        run(head, session, passes=rng.randrange(6))
        run(head, session, ahead, passes=rng.randrange(3))
        check_tree(session, text)
        tokens = [rng.randrange(TARGET_VOCAB) for _ in range(rng.randrange(1, 5))]
        text += tokens
        match rng.randrange(6):
            case 0:  # not told; later either told with the next, or never
                session.observe(tokens)
            case 1:
                session.observe(tokens, features_of(text, first := rng.randrange(told, len(text) - 1)))
                told = first
            case 2 if read:
                session.observe(tokens, features_of(text, rng.randrange(read)))
            case _:
                session.observe(tokens, features_of(text, told))
        read = len(text) - 1
        told = read if session.is_told else told
        assert len(session._cache) <= 40
    commit(session, text, [7], first=max(0, len(text) - 3))
    run(head, session)
    check_tree(session, text)
    assert session.tree.root.successors is not None


def test_who_joins_late_drafts_from_the_first_states_on():
    head, text = FakeHead(), [*PROMPT, *greedy(PROMPT, 9)]
    session = session_on(head, text)
    commit(session, text, greedy(text, 2))  # states of two positions, so the last two have rows
    run(head, session)
    assert head.passes[0] == 2
    assert session.candidates(BUDGET).tokens == greedy(text, DEPTH)


def test_without_the_latest_state_there_is_no_draft():
    head = FakeHead()
    session, text = opened(head)
    run(head, session)
    text += [12, 13]
    session.observe([12, 13])
    assert session.next_rows(BUDGET, Times()) is None
    assert not len(session.candidates(BUDGET))
    commit(session, text, [14])  # what was in between is never told
    head.passes.clear()
    run(head, session)
    assert head.passes[0] == 1, "its context begins anew"
    assert session.candidates(BUDGET).tokens == greedy(text, DEPTH)


def test_states_that_come_later_fill_the_gap():
    head = FakeHead()
    session, text = opened(head)
    run(head, session)
    start = len(text) - 1
    text += [12, 13]
    session.observe([12, 13])
    head.passes.clear()
    commit(session, text, [14], first=start)
    run(head, session)
    assert head.passes[0] == 3
    assert session.candidates(BUDGET).tokens == greedy(text, DEPTH)


def test_what_is_told_again_is_not_run_again():
    head = FakeHead()
    session, text = opened(head)
    run(head, session)
    head.passes.clear()
    commit(session, text, [12], first=0)
    run(head, session)
    assert head.passes[0] == 1


@pytest.mark.parametrize("window", [0, 20])
def test_a_text_longer_than_the_head_is_read_from_its_latest_part(window: int):
    head = FakeHead(max_length=48)
    session, text = opened(head, needs=FeatureNeeds(NEEDS.layers, NEEDS.hidden_size, window))
    most = window or 36
    for _ in range(60):
        run(head, session)
        assert session.candidates(BUDGET).tokens == greedy(text, DEPTH), len(text)
        commit(session, text, greedy(text, 3))
        assert session.length - session._start <= most
    assert most - 3 <= head.largest - (DEPTH - 1) <= most
    assert sum(head.passes) < 60 * (3 + DEPTH) + 4 * len(text), "half of it at a time, not every time"
    assert len(session._states) <= 2 * most


def test_a_long_prompt_is_read_in_parts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(feature_session, "MAX_CHUNK", 10)
    head = FakeHead(max_length=100)
    prompt = [index % TARGET_VOCAB for index in range(34)]
    session, text = opened(head, prompt)
    run(head, session, passes=2)
    commit(session, text, [5])  # while it is being read
    run(head, session)
    assert head.passes[:4] == [10, 10, 10, 5]
    assert session.candidates(BUDGET).tokens == greedy(text, DEPTH)


@pytest.mark.parametrize("max_length", [1, 2, 3, 5])
def test_a_head_with_hardly_any_positions_drafts_what_it_can(max_length: int):
    head = FakeHead(max_length=max_length)
    session, text = opened(head)
    for _ in range(5):
        run(head, session)
        drafted = session.candidates(BUDGET).tokens
        assert drafted == greedy(text, len(drafted))
        assert drafted
        commit(session, text, greedy(text, 2))


def test_rows_that_were_given_back_are_not_missed():
    head = FakeHead()
    session, text = opened(head)
    run(head, session)
    session.forget()
    assert session.num_rows == 0
    assert session.next_rows(BUDGET, Times()) is None
    commit(session, text, greedy(text, 2))
    run(head, session)
    assert session.candidates(BUDGET).tokens == greedy(text, DEPTH)


def test_the_rule_hears_what_came_true():
    head = FakeHead()
    session, text = opened(head)
    run(head, session)
    drafted = session.tree.tokens(len(session.tree.nodes) - 1)
    wrong = (drafted[2] + 1) % CUT.size
    commit(session, text, [*CUT.ids[drafted[:2]].tolist(), int(CUT.ids[wrong])])
    rule = session._growing.growth.rule
    assert isinstance(rule, Never)
    assert rule.heard == [(drafted[0], True), (drafted[1], True), (drafted[2], False)]


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_at_a_temperature_it_draws_with_the_noise_of_the_targets_ids(temperature: float):
    from paceline.wire.noise import gumbel

    head, seed = FakeHead(), 77
    session, text = opened(head, sampling=Sampling(temperature=temperature, seed=seed))
    run(head, session)
    drafted = session.candidates(BUDGET).tokens
    expected = list(text)
    for _ in drafted:
        noise = gumbel(seed, len(expected), CUT.ids)
        best = (logits_at(states_of(expected)[-1]) / temperature + noise).argmax()
        expected.append(int(CUT.ids[best]))
    assert drafted == expected[len(text) :]
    assert drafted != greedy(text, len(drafted))
