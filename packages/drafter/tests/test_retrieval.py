"""What `retrieval` and `hierarchy` propose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from one_session import commit, context, paths

from paceline.drafter.datastore.build import write
from paceline.drafter.datastore.store import Datastore
from paceline.drafter.strategies import open_resources
from paceline.drafter.strategies.base import NUM_BINS, Budget, Candidates, Resources, ScopeBounds
from paceline.drafter.strategies.hierarchy import ENOUGH, Hierarchy
from paceline.drafter.strategies.matching import LENGTH_BINS, SHARE_BINS, grow_tree
from paceline.drafter.strategies.retrieval import Retrieval
from paceline.drafter.strategies.suffix import Suffix
from paceline.wire.settings import StartupError

BUDGET = Budget(max_nodes=32, max_depth=16)


@pytest.fixture
def bounds(tmp_path: Path) -> ScopeBounds:
    """With a datastore where 50 51 52 goes on with 53 54 55, twice, and with 60 once."""
    text = [50, 51, 52, 53, 54, 55, -1, 9, 50, 51, 52, 53, 54, 55, -1, 50, 51, 52, 60, -1, 52, 70, -1]
    write(np.array(text, dtype=np.int32), "target", tmp_path / "d", lambda _stage, _share: None)
    return ScopeBounds(100, 3000, "target", Resources(Datastore(tmp_path / "d")))


def retrieved(bounds: ScopeBounds, text: list[int]) -> dict[tuple[int, ...], float]:
    return paths(Retrieval(bounds).begin(context(text)).draft(BUDGET))


def test_retrieval_continues_the_longest_match_by_counts(bounds: ScopeBounds) -> None:
    found = retrieved(bounds, [1, 50, 51, 52])
    assert (53, 54, 55) in found
    assert found[53,] > found[60,] > found[70,] > 0, "the shorter match has what the longer one leaves"
    assert not any(-1 in path for path in found), "what stands between texts is not a token"


def test_retrieval_agrees_with_the_automaton_over_the_same_text(bounds: ScopeBounds) -> None:
    scope = Suffix(bounds)
    scope.remember([9, 50, 51, 52, 53, 54, 55])
    scope.index(100)
    same = paths(scope.begin(context([9, 50])).draft(BUDGET))
    assert set(same) <= set(retrieved(bounds, [9, 50])), "the other texts add shorter matches"


def test_retrieval_follows_commits_and_learns_nothing(bounds: ScopeBounds) -> None:
    scope = Retrieval(bounds)
    session = context([9])
    proposer = scope.begin(session)
    session.tokens += [50, 51]
    proposer.observe(commit([50, 51]))
    assert (52, 53) in paths(proposer.draft(BUDGET))
    proposer.end()
    assert scope.num_remembered == 0


def test_without_a_fitting_datastore_nothing_is_retrieved(bounds: ScopeBounds) -> None:
    for other in (
        ScopeBounds(100, 3000, "another", bounds.resources),
        ScopeBounds(50, 3000, "target", bounds.resources),
        ScopeBounds(100, 3000, "target"),
    ):
        assert not retrieved(other, [50, 51, 52])


def test_a_datastore_is_opened_when_a_strategy_needs_it(tmp_path: Path, bounds: ScopeBounds) -> None:
    assert open_resources(["suffix", "hierarchy"], None).datastore is None
    assert open_resources(["retrieval"], tmp_path / "d").datastore is not None
    with pytest.raises(StartupError, match="--datastore"):
        open_resources(["suffix", "retrieval"], None)
    with pytest.raises(StartupError, match="manifest"):
        open_resources(["suffix"], tmp_path / "nothing")


# hierarchy


def sources(tree: Candidates) -> set[int]:
    return {kind // (LENGTH_BINS * 2) for kind in tree.bins}


def ask(bounds: ScopeBounds, text: list[int], earlier: list[int] | None = None) -> Candidates:
    scope = Hierarchy(bounds)
    if earlier:
        before = scope.begin(context(earlier))
        before.draft(BUDGET)
        before.end()
    return scope.begin(context(text)).draft(BUDGET)


def test_hierarchy_asks_the_sessions_own_text_first(bounds: ScopeBounds) -> None:
    own = [50, 51, 52, 20, 21, 8, 50, 51, 52]
    tree = ask(bounds, own, earlier=[50, 51, 52, 30, 31])
    assert sources(tree) == {0}
    assert (20, 21) in paths(tree)
    assert not {30, 53} & set(tree.tokens)


def test_hierarchy_goes_on_to_earlier_texts_and_then_to_the_datastore(bounds: ScopeBounds) -> None:
    tree = ask(bounds, [1, 50, 51, 52], earlier=[50, 51, 52, 30, 31])
    assert sources(tree) == {1}
    assert (30, 31) in paths(tree)
    tree = ask(bounds, [1, 50, 51, 52], earlier=[7, 8])
    assert sources(tree) == {2}
    assert (53, 54) in paths(tree)


def test_hierarchy_takes_the_longest_match_if_none_is_long_enough(bounds: ScopeBounds) -> None:
    assert ENOUGH > 2
    tree = ask(bounds, [52, 40, 51, 52], earlier=[6, 51, 52, 30])
    assert sources(tree) == {1}, "two tokens against one; the datastore has two, but comes later"
    assert sources(ask(bounds, [52, 40, 8, 52])) == {0}, "of equals the most local"
    assert not len(ask(bounds, [1, 2, 3]))


def test_hierarchys_kinds_of_guesses_stay_within_the_bins() -> None:
    assert 3 * LENGTH_BINS * 2 <= NUM_BINS
    assert LENGTH_BINS * SHARE_BINS <= NUM_BINS


def test_no_matches_make_an_empty_tree() -> None:
    assert not len(grow_tree([], BUDGET))
