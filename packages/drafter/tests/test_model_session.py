"""A session's tree against what the model says of each text by itself."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import numpy as np
import pytest
from fake_model import VOCAB, FakeModel, Never, Plain, session_on
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.drafter.model_session import MAX_CHUNK, ModelSession
from paceline.drafter.stopping.base import Times
from paceline.drafter.strategies.base import Budget, Sampling
from paceline.drafter.trees.base import Shape
from paceline.drafter.trees.chain import Chain
from paceline.drafter.trees.eagle2 import Eagle2

BUDGET = Budget(max_nodes=24, max_depth=16)


def run(model: FakeModel, session: ModelSession, ahead: bool = False, passes: int = 1000) -> None:
    for _ in range(passes):
        rows = session.next_rows(BUDGET, Times(), ahead)
        if rows is None:
            return
        session.absorb(model.score([rows])[0])


def check_tree(model: FakeModel, session: ModelSession, text: Sequence[int]) -> None:
    """Whatever happened before, what the tree says is what the model says."""
    for index, node in enumerate(session.tree.nodes):
        if node.successors is None:
            continue
        logits = model.logits_after([*text, *session.tree.tokens(index)]).astype(np.float64)
        expected = logits - np.logaddexp.reduce(logits)
        assert node.successors.tokens.tolist() == np.argsort(-logits, kind="stable")[: len(node.successors)].tolist()
        np.testing.assert_allclose(node.successors.log_q, expected[node.successors.tokens], atol=1e-6)  # float32


def test_a_chain_is_what_the_model_says_by_itself():
    model, text = FakeModel(), [1, 2, 3]
    session = session_on(model, text)
    run(model, session)
    assert session.candidates(BUDGET).tokens == model.greedy(text, 6)
    check_tree(model, session, text)


@given(st.integers(0, 10_000), st.booleans(), st.sampled_from([Chain, Eagle2]))
@settings(max_examples=60, deadline=None)
def test_whatever_is_committed_the_tree_stays_true(seed, ahead, policy):
    rng = random.Random(seed)
    model, text = FakeModel(seed=seed % 5), [rng.randrange(VOCAB) for _ in range(rng.randrange(1, 8))]
    session = session_on(model, text, policy(Shape(3, 4)))
    for _ in range(6):
        run(model, session, passes=rng.randrange(8))
        run(model, session, ahead, passes=rng.randrange(4))
        check_tree(model, session, text)
        # The target follows the tree for a while, then says something else.
        nodes = session.tree.tokens(rng.randrange(len(session.tree.nodes)))
        committed = [*nodes, rng.randrange(VOCAB)][: rng.randrange(1, 5)]
        session.observe(committed)
        text += committed
    run(model, session)
    check_tree(model, session, text)
    assert session.tree.root.successors is not None


def test_what_was_thought_ahead_is_there_when_the_commit_comes():
    model, text = FakeModel(), [5, 6, 7]
    session = session_on(model, text)
    run(model, session)
    drafted = set(session._growing.growth.policy.select(session.tree, BUDGET))
    run(model, session, ahead=True)
    tree = session.tree
    others = [node for node in range(1, len(tree.nodes)) if tree.nodes[node].successors and node not in drafted]
    assert len(others) > 4, "several outcomes were thought from"
    committed = tree.tokens(others[0])  # the target said something that was not proposed
    passes = model.num_passes
    session.observe(committed)
    assert session.tree.root.successors is not None
    assert session.candidates(BUDGET, ahead=True).tokens
    assert model.num_passes == passes
    check_tree(model, session, text + committed)


def test_keys_and_values_of_the_text_are_never_computed_twice():
    model, text = FakeModel(), list(range(20))
    session = session_on(model, text)
    run(model, session)
    first = model.num_rows
    assert first == 20 + 5
    session.observe(session.candidates(BUDGET).tokens[:3])
    run(model, session)
    assert session.num_rows == 23 + 5
    assert model.num_rows == first + 3, "the three nodes that the tree lacks after it moved on"


def test_a_long_context_is_read_in_parts():
    model, text = FakeModel(max_length=4096), [index % VOCAB for index in range(2 * MAX_CHUNK + 10)]
    session = session_on(model, text)
    run(model, session)
    assert model.num_passes == 3 + 5
    check_tree(model, session, text)


def test_a_context_beyond_the_model_gets_no_draft():
    model = FakeModel(max_length=16)
    session = session_on(model, list(range(14)))
    run(model, session)
    assert len(session.candidates(BUDGET)) == 3, "positions 14 and 15 are run; the last one's successor is known"
    session.observe([1, 2, 3])
    assert session.beyond_reach
    assert session.next_rows(BUDGET, Times()) is None
    assert not len(session.candidates(BUDGET))


def test_rows_that_were_given_back_are_computed_again():
    model, text = FakeModel(), [3, 1, 4, 1, 5]
    session = session_on(model, text)
    run(model, session)
    drafted = session.candidates(BUDGET)
    session.forget()
    assert session.num_rows == 0
    run(model, session)
    assert session.candidates(BUDGET) == drafted


def test_the_rule_hears_what_came_true():
    model, text = FakeModel(), [9, 9]
    session = session_on(model, text)
    run(model, session)
    drafted = session.candidates(BUDGET).tokens
    wrong = (drafted[2] + 1) % VOCAB
    session.observe([*drafted[:2], wrong])
    rule = session._growing.growth.rule
    assert isinstance(rule, Never)
    assert rule.heard == [(drafted[0], True), (drafted[1], True), (drafted[2], False)]


def test_a_retokenised_end_is_run_again():
    model, text = FakeModel(), [1, 2, 3, 4]
    session = session_on(model, text)
    run(model, session)
    bridge = session._bridge
    assert isinstance(bridge, Plain)
    bridge.context = [1, 2, 3]  # and then 30 instead of 4
    session.observe([30, 31])
    run(model, session)
    check_tree(model, session, [1, 2, 3, 30, 31])


def test_guesses_are_checked_in_one_pass():
    """A text that repeats: the suffix automaton guesses its continuation, and the model says what that is worth."""
    model = FakeModel(order=1)
    start = [1, 2, 3]
    loop = start + model.greedy(start, 300)
    session = session_on(model, loop, guesses=True)
    before = model.num_passes
    run(model, session, passes=2)
    assert model.num_passes - before <= 2
    tokens = session.candidates(BUDGET).tokens
    expected = model.greedy(loop, len(tokens))
    assert len(tokens) >= 4
    assert tokens == expected
    check_tree(model, session, loop)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_at_a_temperature_a_model_that_is_the_target_draws_what_the_target_draws(temperature):
    from paceline.wire.noise import gumbel

    model, text, seed = FakeModel(), [1, 2, 3], 77
    session = session_on(model, text, sampling=Sampling(temperature=temperature, seed=seed))
    run(model, session)
    drafted = session.candidates(BUDGET).tokens
    expected = list(text)
    for _ in drafted:
        noise = gumbel(seed, len(expected), np.arange(VOCAB))
        expected.append(int((model.logits_after(expected) / temperature + noise).argmax()))
    assert drafted == expected[3:]
    assert drafted != model.greedy(text, len(drafted))


def test_a_tree_is_wider_than_a_chain():
    model, text = FakeModel(), [1, 2, 3]
    session = session_on(model, text, Eagle2(Shape(3, 3)))
    run(model, session)
    candidates = session.candidates(BUDGET)
    assert max(len(list(group)) for _, group in itertools.groupby(sorted(candidates.parents))) > 1
    check_tree(model, session, text)
