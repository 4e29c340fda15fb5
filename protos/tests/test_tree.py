from __future__ import annotations

import math
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.v1 import drafting_pb2
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.tree import ROOT, Anchor, DraftTree, TreeBounds, decode_tree, encode_tree

BOUNDS = TreeBounds(max_nodes=16, max_depth=6, vocab_size=100, num_strategies=2)
ANCHOR = Anchor(7, 12, 0xABCDEF)


@st.composite
def trees(draw: st.DrawFn) -> DraftTree:
    parents: list[int] = []
    depths: list[int] = []
    for index in range(draw(st.integers(0, BOUNDS.max_nodes))):
        parent = draw(st.sampled_from([ROOT, *(i for i in range(index) if depths[i] < BOUNDS.max_depth)]))
        parents.append(parent)
        depths.append(1 if parent == ROOT else depths[parent] + 1)
    size = len(parents)
    confidence = st.floats(-50, 0, width=32)
    return DraftTree(
        tokens=tuple(draw(st.lists(st.integers(0, 99), min_size=size, max_size=size))),
        parents=tuple(parents),
        log_confidence=tuple(draw(st.lists(confidence, min_size=size, max_size=size))),
        strategy=tuple(draw(st.lists(st.integers(0, 1), min_size=size, max_size=size))),
    )


@given(trees())
def test_a_tree_survives_the_wire(tree: DraftTree) -> None:
    message = drafting_pb2.DraftTree.FromString(encode_tree(ANCHOR, tree).SerializeToString())
    assert decode_tree(message, BOUNDS) == (ANCHOR, tree)


def chain(length: int) -> DraftTree:
    return DraftTree(tuple(range(length)), tuple(i - 1 for i in range(length)), (-0.5,) * length, (0,) * length)


@pytest.mark.parametrize(
    ("change", "reason", "field"),
    [
        ({"tokens": [0] * 17, "parents": [0] * 17}, Reason.TREE_TOO_LARGE, "tokens"),
        ({"tokens": [5, 100]}, Reason.TOKEN_OUT_OF_VOCABULARY, "tokens[1]"),
        ({"parents": [0]}, Reason.TREE_MALFORMED, "parents"),
        ({"parents": [1, 0]}, Reason.TREE_MALFORMED, "parents[0]"),
        ({"parents": [2, 1]}, Reason.TREE_MALFORMED, "parents[0]"),
        ({"parents": [0, 9]}, Reason.TREE_MALFORMED, "parents[1]"),
        ({"log_confidence": [-1.0]}, Reason.TREE_MALFORMED, "log_confidence"),
        ({"log_confidence": [-1.0, 0.1]}, Reason.TREE_MALFORMED, "log_confidence[1]"),
        ({"log_confidence": [math.nan, -1.0]}, Reason.TREE_MALFORMED, "log_confidence[0]"),
        ({"log_confidence": [-math.inf, -1.0]}, Reason.TREE_MALFORMED, "log_confidence[0]"),
        ({"strategy": [0, 2]}, Reason.TREE_MALFORMED, "strategy[1]"),
        ({"strategy": []}, Reason.TREE_MALFORMED, "strategy"),
    ],
)
def test_each_bound_is_refused_by_name(change: dict[str, list[float]], reason: Reason, field: str) -> None:
    message = encode_tree(ANCHOR, chain(2))
    for name, values in change.items():
        message.ClearField(name)
        getattr(message, name).extend(values)
    with pytest.raises(PacelineError) as refusal:
        decode_tree(message, BOUNDS)
    assert refusal.value.reason is reason
    assert refusal.value.field == field
    assert refusal.value.limit is not None


def test_depth_is_bounded() -> None:
    assert len(decode_tree(encode_tree(ANCHOR, chain(6)), BOUNDS)[1]) == 6
    with pytest.raises(PacelineError) as refusal:
        decode_tree(encode_tree(ANCHOR, chain(7)), BOUNDS)
    assert refusal.value.reason is Reason.TREE_TOO_DEEP


@given(st.binary(max_size=200))
def test_garbage_raises_nothing_but_refusals(data: bytes) -> None:
    message = drafting_pb2.DraftTree()
    try:
        message.ParseFromString(data)
    except Exception:
        return  # gRPC refuses what isn't protobuf before it gets here
    with suppress(PacelineError):
        decode_tree(message, BOUNDS)


@given(
    st.lists(st.integers(0, 2**32 - 1), max_size=20),
    st.lists(st.integers(0, 2**32 - 1), max_size=20),
    st.lists(st.floats(width=32), max_size=20),
)
def test_whatever_is_accepted_is_a_tree(tokens: list[int], parents: list[int], confidence: list[float]) -> None:
    message = drafting_pb2.DraftTree(
        tokens=tokens, parents=parents, log_confidence=confidence, strategy=[0] * len(tokens)
    )
    try:
        _, tree = decode_tree(message, BOUNDS)
    except PacelineError:
        return
    assert len(tree) <= BOUNDS.max_nodes
    assert all(ROOT <= parent < index for index, parent in enumerate(tree.parents))
    assert np.all(np.array(tree.tokens, dtype=int) < BOUNDS.vocab_size)
