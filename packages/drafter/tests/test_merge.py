"""Merging trees, and confidences that come true."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.drafter.calibration import CEILING, MAX_CLAIMED, Calibration
from paceline.drafter.merge import merge
from paceline.drafter.strategies.base import ROOT, Budget, Candidates
from paceline.wire.tree import DraftTree


@st.composite
def trees(draw: st.DrawFn, max_nodes: int = 6) -> Candidates:
    tree = Candidates()
    for node in range(draw(st.integers(0, max_nodes))):
        # Few values, and 1.0 among them, so that ties are common.
        confidence = draw(st.sampled_from([1.0, 0.9, 0.5, 0.25, 0.01]))
        tree.add(draw(st.integers(0, 2)), draw(st.integers(ROOT, node - 1)), confidence, 0)
    return tree


def worths(tree: DraftTree) -> dict[tuple[int, ...], float]:
    found: list[tuple[tuple[int, ...], float]] = []
    for token, parent, confidence in zip(tree.tokens, tree.parents, tree.log_confidence, strict=True):
        above, worth = ((), 1.0) if parent == ROOT else found[parent]
        found.append(((*above, token), worth * math.exp(confidence)))
    assert len(dict(found)) == len(found), "the same token twice under one parent"
    return dict(found)


def best_by_path(many: list[Candidates]) -> dict[tuple[int, ...], tuple[float, int]]:
    """The greatest confidence given to each path, and by which tree: the definition of merging."""
    best: dict[tuple[int, ...], tuple[float, int]] = {}
    for index, tree in enumerate(many):
        paths: list[tuple[int, ...]] = []
        for token, parent, confidence in zip(tree.tokens, tree.parents, tree.confidence, strict=True):
            path = (*(paths[parent] if parent != ROOT else ()), token)
            paths.append(path)
            if path not in best or confidence > best[path][0]:
                best[path] = (confidence, index)
    return best


def worth_of(path: tuple[int, ...], best: dict[tuple[int, ...], tuple[float, int]]) -> float:
    return math.prod(best[path[:size]][0] for size in range(1, len(path) + 1))


@given(st.lists(trees(), max_size=3), st.integers(0, 20), st.integers(0, 4))
def test_merged_trees_are_in_order_within_budget_and_keep_the_greater_confidence(
    many: list[Candidates], max_nodes: int, max_depth: int
) -> None:
    tree = merge(many, Budget(max_nodes, max_depth))
    best = best_by_path(many)
    allowed = [path for path in best if len(path) <= max_depth]
    assert len(tree) == min(max_nodes, len(allowed))
    assert all(parent < node for node, parent in enumerate(tree.parents))
    assert all(confidence <= 0 for confidence in tree.log_confidence)
    for node, path in enumerate(worths(tree)):
        assert len(path) <= max_depth
        assert tree.log_confidence[node] == pytest.approx(math.log(best[path][0]))
        assert tree.strategy[node] == best[path][1]


@given(st.lists(trees(), max_size=3), st.sampled_from([0.01, 0.25, 0.3, 1.0]))
def test_nodes_below_the_least_value_are_left_out_and_parents_stay(many: list[Candidates], least: float) -> None:
    whole = worths(merge(many, Budget(100, 9)))
    kept = worths(merge(many, Budget(100, 9, least)))
    assert kept == {path: worth for path, worth in whole.items() if worth >= least * (1 - 1e-9)}
    assert all(len(path) == 1 or path[:-1] in kept for path in kept)


@given(st.lists(trees(4), max_size=2), st.integers(1, 4))
def test_no_tree_of_that_size_is_worth_more(many: list[Candidates], max_nodes: int) -> None:
    best = best_by_path(many)
    size = min(max_nodes, len(best))
    rivals = (
        sum(worth_of(path, best) for path in chosen)
        for chosen in itertools.combinations(best, size)
        if all(len(path) == 1 or path[:-1] in chosen for path in chosen)
    )
    assert sum(worths(merge(many, Budget(max_nodes, 9))).values()) == pytest.approx(max(rivals))


def chain(tokens: list[int], confidence: float, kind: int = 0) -> Candidates:
    tree = Candidates()
    for node, token in enumerate(tokens):
        tree.add(token, node - 1, confidence, kind)
    return tree


def test_claims_that_come_true_half_as_often_are_halved() -> None:
    calibration, rng = Calibration(), random.Random(1)
    for _ in range(4000):
        calibration.resolve(chain([1], 0.6, kind=3), [1 if rng.random() < 0.3 else 2])
    corrected = calibration.corrected(chain([1], 0.6, kind=3))
    assert corrected.confidence[0] == pytest.approx(0.3, abs=0.04)
    assert calibration.corrected(chain([1], 0.6, kind=4)).confidence == [0.6], "other kinds are other guesses"


def test_modest_claims_are_raised_but_never_to_certainty() -> None:
    calibration = Calibration()
    for _ in range(4000):
        calibration.resolve(chain([1], 0.1), [1])
    assert calibration.corrected(chain([1], 0.9)).confidence == [CEILING]


def test_what_was_true_long_ago_fades() -> None:
    calibration = Calibration()
    for token, times in ((1, 5000), (2, 3000)):
        for _ in range(times):
            calibration.resolve(chain([1], 0.5), [token])
    assert MAX_CLAIMED < 3000
    assert calibration.corrected(chain([1], 0.5)).confidence[0] < 0.1


def test_only_nodes_whose_parent_came_true_are_resolved() -> None:
    tree = chain([1, 2, 3, 4], 0.5)
    tree.add(9, ROOT, 0.5, 0)
    tree.add(8, 4, 0.5, 0)
    calibration = Calibration()
    calibration.resolve(tree, [1, 2, 7, 4])
    assert (calibration.num_resolved, calibration.num_right) == (4, 2)  # 1 right, 9 wrong, 2 right, 3 wrong
    calibration = Calibration()
    calibration.resolve(tree, [1])
    assert (calibration.num_resolved, calibration.num_right) == (2, 1), "beyond the text nothing is known"


def test_correcting_leaves_the_claims_as_they_were() -> None:
    calibration = Calibration()
    calibration.resolve(chain([1], 0.5), [2])
    tree = chain([1], 0.5)
    assert calibration.corrected(tree).confidence[0] < 0.5
    assert tree.confidence == [0.5]
