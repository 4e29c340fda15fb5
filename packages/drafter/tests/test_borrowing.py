"""Tokens that a cut vocabulary takes from the text."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from paceline.drafter.live_tree import ROOT, LiveTree, Successors
from paceline.drafter.vocabulary import borrowing
from paceline.drafter.vocabulary.borrowing import BorrowingBridge
from paceline.drafter.vocabulary.cut import Cut, CutVocabulary

TARGET, WIDTH = 14, 3
IDS = [2, 3, 5, 7, 11, 13]
OTHER = len(IDS)
KIND = Cut(CutVocabulary(np.array(IDS), "h"), "h", TARGET)

Parts = st.lists(st.lists(st.integers(0, TARGET - 1), min_size=1, max_size=8), min_size=1, max_size=8)


def embeddings(tokens: list[int]) -> np.ndarray:
    return np.repeat(np.array(tokens, np.float32)[:, None], WIDTH, axis=1)


def told(parts: list[list[int]], first: int) -> tuple[BorrowingBridge, list[int]]:
    """A text that comes in parts; states begin at position `first`, and those of the last token come with the next."""
    text: list[int] = []
    bridge = BorrowingBridge(KIND, [], WIDTH)
    for part in parts:
        known = max(first, len(text) - 1)
        text += part
        bridge.observe(part)
        bridge.tell(known, embeddings(text[known:-1]))
    return bridge, text


@given(Parts, st.integers(0, 10))
def test_a_token_is_borrowed_when_its_first_place_was_told(parts: list[list[int]], first: int):
    bridge, text = told(parts, first)
    slots: dict[int, int] = {}
    for place, (token, own) in enumerate(zip(text, bridge.context, strict=True)):
        if token in IDS:
            assert own == IDS.index(token)
        elif token in slots:
            assert own == OTHER + 1 + slots[token]
        else:
            assert own == OTHER
            if first <= place < len(text) - 1:
                slots[token] = len(slots)
    assert bridge.embeddings[:, 0].tolist() == list(slots)
    assert bridge.noise_ids is not None
    assert bridge.noise_ids[OTHER + 1 : OTHER + 1 + len(slots)].tolist() == list(slots)
    assert bridge.noise_ids[[OTHER, *range(OTHER + 1 + len(slots), len(bridge.noise_ids))]].max() == -1


@given(Parts, st.integers(0, 10))
def test_what_is_told_again_changes_nothing(parts: list[list[int]], first: int):
    bridge, text = told(parts, first)
    context, rows = list(bridge.context), bridge.embeddings.copy()
    bridge.tell(first, embeddings(text[first:-1]))
    assert list(bridge.context) == context
    assert np.array_equal(bridge.embeddings, rows)


def test_there_is_an_end_to_it(monkeypatch):
    monkeypatch.setattr(borrowing, "MAX_BORROWED", 2)
    bridge, _ = told([[0, 1, 4, 0, 1, 4, 4]], 0)
    assert bridge.embeddings[:, 0].tolist() == [0, 1]
    assert list(bridge.context) == [OTHER, OTHER, OTHER, OTHER + 1, OTHER + 2, OTHER, OTHER]


def test_a_borrowed_token_is_told_in_the_targets_id():
    bridge, _ = told([[0, 9, 0, 9, 2]], 0)
    tree = LiveTree()
    ids = np.array([OTHER + 2, 1])
    claims = np.log(np.array([0.6, 0.3]))
    tree.expand(ROOT, Successors(ids, claims, np.zeros(2), claims, 0.9))
    nodes = tree.add_all(ROOT, [0, 1])
    found = bridge.translate(tree, nodes)
    assert found.tokens == [9, 3]
