"""Vocabularies that are cut from the target's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from live_trees import HashModel, drive, new_tree

from paceline.drafter.live_tree import ROOT
from paceline.drafter.strategies.base import Budget
from paceline.drafter.trees.base import Shape
from paceline.drafter.trees.eagle2 import Eagle2
from paceline.drafter.vocabulary.cut import Cut, CutVocabulary, parse_cut
from paceline.wire.errors import PacelineError, Reason

TARGET = 50
IDS = [7, 3, 49, 20, 21]
HASH = "h" * 64
KIND = Cut(CutVocabulary(np.array(IDS), HASH), HASH, TARGET)


def test_a_vocabulary_is_what_its_file_says():
    found = parse_cut(np.array(IDS, "<u4").tobytes(), 5, HASH)
    assert (found.ids.tolist(), found.tokenizer_hash, found.size) == (IDS, HASH, 5)


@given(st.binary(max_size=40), st.integers(1, 10))
def test_any_file_is_understood_or_refused(content: bytes, size: int):
    try:
        found = parse_cut(content, size, HASH)
    except PacelineError as error:
        reason: Reason | None = error.reason
    else:
        reason = None
        assert len(set(found.ids.tolist())) == size
        assert content == found.ids.astype("<u4").tobytes()
    assert reason in (None, Reason.UNUSABLE_REVISION)


@given(st.lists(st.lists(st.integers(0, TARGET - 1)), min_size=1))
def test_a_context_has_a_draft_token_for_each_of_the_targets(parts: list[list[int]]):
    bridge = KIND.begin(parts[0])
    context = bridge.context
    for part in parts[1:]:
        bridge.observe(part)
    tokens = [token for part in parts for token in part]
    assert list(context) == [IDS.index(token) if token in IDS else len(IDS) for token in tokens]


def test_a_tree_is_told_in_the_targets_ids():
    shape, budget = Shape(3, 3), Budget(20, 8)
    model = HashModel(4, len(IDS))
    tree = new_tree(model)
    policy = Eagle2(shape)
    drive(policy, tree, shape, budget, model)
    selected = [node for node in policy.select(tree, budget) if tree.nodes[node].claim > -math.inf]
    found = KIND.begin([]).translate(tree, selected)
    assert found.tokens == [IDS[tree.nodes[node].token] for node in selected]
    assert found.parents == [
        -1 if tree.nodes[node].parent == ROOT else selected.index(tree.nodes[node].parent) for node in selected
    ]
    assert found.confidence == pytest.approx([math.exp(tree.nodes[node].claim) for node in selected])
    assert len(found) > 4


def test_noise_is_that_of_the_targets_ids():
    bridge = KIND.begin([])
    assert bridge.noise_ids is not None
    assert bridge.noise_ids.tolist() == IDS
    assert bridge.allowed is None


@pytest.mark.parametrize(("tokenizer_hash", "size"), [("g" * 64, TARGET), (HASH, 49)])
def test_another_target_is_refused(tokenizer_hash: str, size: int):
    with pytest.raises(PacelineError) as caught:
        Cut(CutVocabulary(np.array(IDS), HASH), tokenizer_hash, size)
    assert caught.value.reason == Reason.VOCABULARY_MISMATCH
