"""What `stochastic_ngram` counts and draws."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from one_session import commit, context, paths

from paceline.drafter.strategies import stochastic_ngram
from paceline.drafter.strategies.base import ROOT, Budget, Sampling, ScopeBounds
from paceline.drafter.strategies.matching import CONFIDENCE
from paceline.drafter.strategies.recycling import RANK_CONFIDENCE
from paceline.drafter.strategies.stochastic_ngram import (
    MAX_CHILDREN,
    MAX_ORDER,
    MAX_SUCCESSORS,
    StochasticNgram,
    children,
)
from paceline.wire.noise import gumbel

BOUNDS = ScopeBounds(vocab_size=100, max_tokens=30_000)
BUDGET = Budget(max_nodes=32, max_depth=8)
words = st.lists(st.integers(0, 4), min_size=1, max_size=60)


def learned(text: list[int]) -> StochasticNgram:
    table = StochasticNgram(BOUNDS)
    table.learn(text, range(1, len(text)))
    return table


@given(words, st.lists(st.integers(0, 4), min_size=1, max_size=6))
def test_probabilities_are_counts_that_back_off_to_shorter_contexts(text: list[int], recent: list[int]) -> None:
    expected: dict[int, float] = {}
    left, longest = 1.0, 0
    for order in range(min(MAX_ORDER, len(recent)), 0, -1):
        word = recent[-order:]
        after = Counter(text[end] for end in range(order, len(text)) if text[end - order : end] == word)
        if not after:
            continue
        longest = max(longest, order)
        doubt = (1 / CONFIDENCE[order] - 1) * len(after)
        for token, count in after.items():
            expected[token] = expected.get(token, 0.0) + left * count / (after.total() + doubt)
        left *= doubt / (after.total() + doubt)
    found, order = learned(text).distribution(recent)
    assert found == pytest.approx(expected)
    assert order == longest
    assert sum(found.values()) + (left if longest else 0.0) == pytest.approx(1.0 if longest else 0.0)


def test_what_was_seen_once_is_as_likely_as_was_measured() -> None:
    found, order = learned([1, 2, 3, 4, 5]).distribution([9, 9, 9, 4])
    assert order == 1
    assert found[5] == pytest.approx(CONFIDENCE[1])


def test_the_targets_guesses_count_by_rank() -> None:
    table = StochasticNgram(BOUNDS)
    table.learn_guesses(commit([], {7: [20, 21, 22]}))
    found, _ = table.distribution([7])
    assert found[20] > found[21] > found[22] > 0
    assert found[20] / found[21] == pytest.approx(RANK_CONFIDENCE[0] / RANK_CONFIDENCE[1])


def test_at_temperature_0_the_likeliest_comes_first_with_its_probability() -> None:
    found = children({5: 0.2, 6: 0.5, 7: 0.1}, Sampling(seed=1), 10)
    assert found == [(6, 0.5), (5, 0.2), (7, 0.1)]


@given(st.dictionaries(st.integers(0, 99), st.floats(0.001, 0.1), min_size=1, max_size=9), st.integers(0, 500))
def test_children_are_drawn_with_the_requests_noise(distribution: dict[int, float], position: int) -> None:
    sampling = Sampling(temperature=0.7, seed=42)
    scores = {
        token: math.log(probability) + float(gumbel(42, position, np.array([token]))[0])
        for token, probability in distribution.items()
    }
    found = children(distribution, sampling, position)
    assert [token for token, _ in found] == sorted(scores, key=scores.__getitem__, reverse=True)[:MAX_CHILDREN]
    assert sum(claim for _, claim in found) <= 1 + 1e-9


def test_first_children_have_the_law_of_the_table() -> None:
    """Over positions, the token drawn first is a sample of the known part of the distribution."""
    distribution = {1: 0.45, 2: 0.3, 3: 0.15}
    drawn = Counter(children(distribution, Sampling(1.0, seed=9), position)[0][0] for position in range(4000))
    for token, probability in distribution.items():
        share = probability / 0.9
        assert drawn[token] / 4000 == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 4000))


def test_a_drafted_path_is_what_a_target_with_the_same_law_samples() -> None:
    """The target's law is the table's: the text that it samples is found along first children more often than that of
    another seed is."""
    table = learned([1, 2, 1, 3, 1, 2, 1, 3, 1, 4] * 30)

    def agreement(draft_seed: int) -> float:
        right = 0
        for position in range(10, 400):
            distribution, _ = table.distribution([1])
            tokens = np.array(list(distribution))
            scores = np.log(list(distribution.values())) + gumbel(5, position, tokens)
            first = children(distribution, Sampling(1.0, seed=draft_seed), position)[0][0]
            right += first == int(tokens[scores.argmax()])
        return right / 390

    assert agreement(5) == 1.0
    assert agreement(6) < 0.7


def test_each_depth_is_drawn_with_the_noise_of_its_position() -> None:
    rng = np.random.default_rng(2)
    text = rng.integers(0, 3, 60).tolist()
    sampling = Sampling(1.0, seed=8)
    scope = StochasticNgram(BOUNDS)
    tree = scope.begin(context(text, sampling=sampling)).draft(Budget(60, 4))
    of_node: dict[int, list[int]] = {ROOT: []}
    claimed: dict[tuple[int, ...], float] = {}
    for node, (token, parent) in enumerate(zip(tree.tokens, tree.parents, strict=True)):
        of_node[node] = [*of_node[parent], token]
        claimed[tuple(of_node[node])] = tree.confidence[node]
    assert max(map(len, claimed)) == 4
    for path, claim in claimed.items():
        distribution, _ = scope.distribution([*text, *path[:-1]][-MAX_ORDER:])
        expected = dict(children(distribution, sampling, len(text) + len(path) - 1))
        assert claim == expected[path[-1]]


def test_sessions_of_a_scope_learn_from_one_another() -> None:
    scope = StochasticNgram(BOUNDS)
    first = scope.begin(context([1, 2, 3, 4]))
    first.draft(BUDGET)
    first.end()
    assert (3, 4) in paths(scope.begin(context([9, 2])).draft(BUDGET))


def test_a_long_prompt_is_counted_over_several_drafts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stochastic_ngram, "INDEXED_PER_DRAFT", 4)
    proposer = StochasticNgram(BOUNDS).begin(context([1, 2, 3, 4, 5, 6, 7, 8, 1, 2]))
    first, _, third = (paths(proposer.draft(BUDGET)) for _ in range(3))
    assert (3, 4) in first
    assert (3, 4, 5) not in first
    assert (3, 4, 5, 6) in third


@pytest.mark.parametrize("max_tokens", [0, 2, 3, 100, 999])
def test_contexts_are_bounded_and_the_unused_ones_leave(max_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stochastic_ngram, "SESSION_CONTEXTS", 50)
    scope = StochasticNgram(ScopeBounds(10_000, max_tokens))
    bound = max_tokens or 150
    for start in range(0, 1000, 50):
        text = [5000, 5001, *range(start, start + 50)]
        scope.learn(text, range(1, len(text)))
        assert scope.num_remembered <= bound
    if bound >= 99:
        assert scope.distribution([998])[0]
        assert not scope.distribution([3])[0]


def test_successors_and_counts_of_a_context_are_bounded() -> None:
    table = StochasticNgram(BOUNDS)
    for token in range(2, 60):
        table.learn([1, 2, 1, token], range(1, 4))
    found, _ = table.distribution([1])
    assert len(found) == MAX_SUCCESSORS
    assert max(found, key=found.__getitem__) == 2, "the frequent one stays"
    for _ in range(1000):
        table.learn([1, 99], range(1, 2))
    assert table.distribution([1])[0][99] > 0.5, "what was long ago fades"
