"""What holds for all strategies, and what `suffix` and `recycling` propose."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from one_session import commit, context, paths

from paceline.drafter.strategies import STRATEGIES
from paceline.drafter.strategies import suffix as suffix_module
from paceline.drafter.strategies.base import NUM_BINS, Budget, Candidates, Sampling, ScopeBounds, Strategy
from paceline.drafter.strategies.matching import CONFIDENCE
from paceline.drafter.strategies.recycling import RANK_CONFIDENCE, SEED_CONFIDENCE, Recycling
from paceline.drafter.strategies.suffix import Suffix

VOCAB = 64
BOUNDS = ScopeBounds(vocab_size=VOCAB, max_tokens=3000)
BUDGET = Budget(max_nodes=32, max_depth=16)
words = st.lists(st.integers(0, 3), min_size=1, max_size=50)


@pytest.mark.parametrize("name", STRATEGIES)
@given(
    text=words,
    more=words,
    temperature=st.sampled_from([0.0, 0.8]),
    budget=st.builds(Budget, st.integers(0, 12), st.integers(0, 5), st.sampled_from([0.0, 0.05, 0.4, 1.0])),
)
def test_trees_are_well_formed_and_within_budget(
    name: str, text: list[int], more: list[int], temperature: float, budget: Budget
) -> None:
    strategy = STRATEGIES[name](BOUNDS)
    session = context(text, sampling=Sampling(temperature=temperature, seed=3))
    strategy.begin(session)  # an answer to the same prompt
    proposer = strategy.begin(session)
    session.tokens += more
    proposer.observe(commit(more, {more[-1]: [3, 2, 1]}))
    tree = proposer.draft(budget)
    assert len(tree) <= budget.max_nodes
    assert all(parent < node for node, parent in enumerate(tree.parents))
    assert all(0 < confidence <= 1 for confidence in tree.confidence)
    assert all(0 <= kind < NUM_BINS for kind in tree.bins)
    worth = list(paths(tree).values())
    assert all(len(path) <= budget.max_depth for path in paths(tree))
    assert all(value >= budget.least_value / 2 * (1 - 1e-9) for value in worth)
    assert all(later <= earlier * (1 + 1e-9) for earlier, later in itertools.pairwise(worth)), "not best first"


@pytest.mark.parametrize("name", STRATEGIES)
@given(earlier=words, text=words, more=words)
def test_a_session_aside_knows_what_is_known_and_leaves_nothing(
    name: str, earlier: list[int], text: list[int], more: list[int]
) -> None:
    def taught() -> Strategy:
        strategy = STRATEGIES[name](BOUNDS)
        proposer = strategy.begin(session := context(text))
        session.tokens += earlier
        proposer.observe(commit(earlier, {earlier[-1]: [3, 2, 1]}))
        proposer.draft(BUDGET)
        proposer.end()
        return strategy

    def answers(strategy: Strategy) -> list[Candidates]:
        """To the same session, while it goes on; it isn't ended."""
        proposer = strategy.begin(session := context(text))
        trees = [proposer.draft(BUDGET)]
        session.tokens += more
        proposer.observe(commit(more, {more[-1]: [9, 8, 7], text[0]: [5, 6, 7]}))
        return [*trees, proposer.draft(BUDGET)]

    strategy, untouched = taught(), taught()
    remembered = strategy.num_remembered
    aside = answers(strategy.aside())
    assert strategy.num_remembered == remembered
    assert answers(strategy) == aside == answers(untouched)


# suffix


def suffix_tree(text: list[int], earlier: list[list[int]] | None = None, budget: Budget = BUDGET) -> Candidates:
    strategy = Suffix(BOUNDS)
    for tokens in earlier or []:
        strategy.remember(tokens)
    strategy.index(10_000)
    return strategy.begin(context(text)).draft(budget)


def test_confidence_is_the_measured_one_by_match_length() -> None:
    assert [CONFIDENCE[length] for length in (0, 1, 2, 3, 4, 6, 8, 16)] == [
        0,
        0.26,
        0.48,
        0.64,
        0.68,
        0.75,
        0.87,
        0.93,
    ]
    assert sorted(CONFIDENCE) == CONFIDENCE


def test_suffix_continues_the_longest_match() -> None:
    text = [1, 2, 3, 10, 11, 12, 9, 2, 3, 20, 9, 1, 2, 3]
    tree = suffix_tree(text)
    found = paths(tree)
    assert (10, 11, 12) in found
    assert found[10,] > found[20,], "the longer match has the first word"
    assert found[10,] == max(found.values())


def test_suffix_branches_by_counts() -> None:
    text = [5, 1, 7, 5, 1, 7, 5, 1, 7, 5, 1, 8, 5, 1]
    found = paths(suffix_tree(text))
    assert found[7,] > found[8,] > 0
    assert found[7,] < 0.87


@given(words, words)
def test_suffix_proposes_only_what_followed_some_suffix(earlier: list[int], text: list[int]) -> None:
    tree = suffix_tree(text, [earlier])
    for path in paths(tree):
        after = [*text, *path[:-1]]
        pair = [after[-1], path[-1]]
        assert any(source[start : start + 2] == pair for source in (earlier, text) for start in range(len(source)))


@given(words)
def test_suffix_knows_the_best_first_token_of_brute_force(text: list[int]) -> None:
    longest = max((size for size in range(1, len(text)) if followers(text, text[-size:])), default=0)
    tree = suffix_tree(text)
    if not longest:
        assert not len(tree)
        return
    assert set(followers(text, text[-longest:])) <= {path[0] for path in paths(tree)}


def followers(text: list[int], word: list[int]) -> list[int]:
    size = len(word)
    return [text[start + size] for start in range(len(text) - size) if text[start : start + size] == word]


def test_suffix_goes_round_a_loop_as_deep_as_allowed() -> None:
    found = paths(suffix_tree([1, 2, 3] * 20, budget=Budget(10, 10)))
    assert tuple([1, 2, 3] * 3 + [1]) in found


def test_suffix_finds_earlier_text_but_not_across_its_end() -> None:
    found = paths(suffix_tree([40, 1, 2], [[1, 2, 3, 4], [5, 6]]))
    assert (3, 4) in found
    assert all(path[:3] != (3, 4, 5) for path in found)
    assert not len(suffix_tree([40, 6], [[1, 2, 6]]))


def test_suffix_indexes_a_long_prompt_over_several_drafts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suffix_module, "OWN_PER_DRAFT", 4)
    proposer = Suffix(BOUNDS).begin(context([1, 2, 30, 31, 1, 2, 40, 41, 50, 51, 52, 1, 2]))
    first, second = (paths(proposer.draft(BUDGET)) for _ in range(2))
    assert (30, 31) in first
    assert (40,) not in first
    assert (40, 41) in second


def test_suffix_forgets_the_oldest_text_within_its_bound() -> None:
    strategy = Suffix(ScopeBounds(vocab_size=10_000, max_tokens=300))
    for start in range(0, 5000, 40):
        strategy.remember(list(range(start, start + 40)))
        assert strategy.num_remembered <= 300
        strategy.index(25)
        assert strategy.num_remembered <= 300
    strategy.index(10_000)
    remembers = [bool(len(strategy.begin(context([start])).draft(BUDGET))) for start in range(0, 5000, 40)]
    assert remembers[-1]
    assert not any(remembers[:-10])
    strategy.remember(list(range(1000)))
    assert strategy.num_remembered <= 300
    strategy.index(10_000)
    assert len(strategy.begin(context([998])).draft(BUDGET)), "of a text that is too long the end is kept"


def test_suffix_remembers_nothing_when_told_so() -> None:
    strategy = Suffix(ScopeBounds(vocab_size=VOCAB, max_tokens=0))
    strategy.remember([1, 2, 3] * 100)
    assert strategy.num_remembered == 0


# recycling


def recycling_tree(rows: dict[int, list[int]], text: list[int], budget: Budget = BUDGET) -> Candidates:
    strategy = Recycling(BOUNDS)
    session = context(text)
    proposer = strategy.begin(session)
    proposer.observe(commit([], rows))
    return proposer.draft(budget)


ROWS = {token: [(token * 3 + rank) % VOCAB for rank in range(1, 9)] for token in range(VOCAB)}


@pytest.mark.parametrize("max_nodes", [1, 7, 32])
def test_recycling_takes_the_best_products_of_all(max_nodes: int) -> None:
    found = paths(recycling_tree(ROWS, [5], Budget(max_nodes, 4)))
    every: dict[tuple[int, ...], float] = {}
    for depth in range(1, 5):
        for ranks in itertools.product(range(8), repeat=depth):
            path, token = [], 5
            for rank in ranks:
                token = ROWS[token][rank]
                path.append(token)
            every[tuple(path)] = math.prod(RANK_CONFIDENCE[rank] for rank in ranks)
    best = sorted(every.values(), reverse=True)[:max_nodes]
    assert sorted(found.values(), reverse=True) == pytest.approx(best)
    assert all(every[path] == pytest.approx(worth) for path, worth in found.items())


def test_recycling_knows_only_the_last_row() -> None:
    strategy = Recycling(BOUNDS)
    session = context([1])
    proposer = strategy.begin(session)
    proposer.observe(commit([], {1: [10, 11, 12]}))
    proposer.observe(commit([], {1: [13, 14]}))
    assert set(paths(proposer.draft(BUDGET))) == {(13,), (14,)}
    assert strategy.num_remembered == 1


def test_recycling_starts_from_what_followed_in_the_text() -> None:
    found = paths(recycling_tree({}, [7, 8, 9, 7, 8, 10, 7]))
    assert found[8,] == SEED_CONFIDENCE
    assert (8, 10, 7) in found, "the latest successor"
    assert (8, 9) not in found
    assert not len(recycling_tree({}, [7]))


def test_recycling_prefers_the_targets_guesses_to_the_text() -> None:
    found = paths(recycling_tree({7: [20, 21]}, [7, 8, 7]))
    assert {path[0] for path in found} == {20, 21}


def test_recycling_learns_from_outputs() -> None:
    strategy = Recycling(BOUNDS)
    session = context([1])
    proposer = strategy.begin(session)
    session.tokens += [2, 3]
    proposer.observe(commit([2, 3]))
    assert (2, 3) in paths(strategy.begin(context([1])).draft(BUDGET))


def test_suffix_follows_a_long_repetition_as_far_as_a_slow_link_needs() -> None:
    text = list(range(200))
    found = paths(suffix_tree([*text, *text[:20]], budget=Budget(64, 64)))
    assert tuple(range(20, 80)) in found
