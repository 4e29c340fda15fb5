"""The worked example of docs/drafter-strategy.md: whoever follows it has a strategy that drafts."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

from paceline.drafter.strategies import STRATEGIES
from paceline.drafter.strategies.base import NUM_BINS, ROOT, Budget, Commit, Context, Sampling, ScopeBounds

EXAMPLE = Path(os.environ["RUNFILES_DIR"]) / "paceline" / "docs" / "examples" / "bigram.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bigram", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_is_short_and_drafts(example: ModuleType) -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= 60
    strategy = example.Bigram(ScopeBounds(10, 0))
    proposer = strategy.begin(Context([1, 2, 3, 1], 0, Sampling()))
    tree = proposer.draft(Budget(8, 8))
    assert tree.tokens[:3] == [2, 3, 1]
    assert tree.parents[:3] == [ROOT, 0, 1]
    proposer.observe(Commit(1, (2,), 5, 0))
    proposer.end()


def test_it_keeps_to_its_budget_and_to_what_a_candidate_is(example: ModuleType) -> None:
    context = Context([1, 2, 1, 2, 1], 0, Sampling())
    for max_nodes, max_depth, least_value in ((1, 8, 0.0), (8, 2, 0.0), (8, 8, 0.3), (0, 8, 0.0)):
        tree = example.Bigram(ScopeBounds(10, 0)).begin(context).draft(Budget(max_nodes, max_depth, least_value))
        assert len(tree) <= min(max_nodes, max_depth)
        assert all(parent < index for index, parent in enumerate(tree.parents))
        assert all(0.0 < confidence <= 1.0 for confidence in tree.confidence)
        assert all(0 <= bin_index < NUM_BINS for bin_index in tree.bins)


def test_it_has_all_that_a_strategy_has(example: ModuleType) -> None:
    for name in ("commit_top_k", "couples", "begin", "aside", "num_remembered"):
        assert hasattr(example.Bigram, name)
        assert all(hasattr(strategy, name) for strategy in STRATEGIES.values())
    strategy = example.Bigram(ScopeBounds(10, 0))
    assert strategy.aside().begin(Context([1], 1, Sampling())).draft(Budget(8, 8)).tokens == []
    assert strategy.num_remembered == 0
