"""What a verifier tells of its target's states; other messages are tested with the link."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.drafter import convert
from paceline.drafter.session import Terms
from paceline.v1 import drafting_pb2, types_pb2
from paceline.wire.errors import PacelineError, Reason

LAYERS, HIDDEN = (2, 7), 3
WIDTH = len(LAYERS) * HIDDEN
TERMS = Terms("v", "m", "h", 100, 64, 8, commit_top_k=0, feature_layers=LAYERS, hidden_size=HIDDEN)


def commit(first: int, values: bytes, length: int = 100) -> drafting_pb2.Commit:
    return drafting_pb2.Commit(length=length, features=drafting_pb2.Features(first=first, values=values))


def bfloat16(numbers: np.ndarray) -> bytes:
    return (numbers.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()


def welcome(**fields: Any) -> drafting_pb2.VerifierMessage:
    peer = types_pb2.Peer(protocol_major=1, protocol_minor=2)
    return drafting_pb2.VerifierMessage(welcome=drafting_pb2.Welcome(peer=peer, vocab_size=10, **fields))


def test_hello_says_which_features_are_wanted():
    hello = convert.hello("d", "n", ["s"], 0, feature_layers=(6, 15), feature_window=512).hello
    assert (list(hello.feature_layers), hello.feature_window) == ([6, 15], 512)
    assert not convert.hello("d", "n", ["s"], 0).hello.feature_layers


def test_welcome_says_which_will_come():
    terms = convert.read_terms(welcome(feature_layers=LAYERS, hidden_size=HIDDEN), 0, asked_layers=LAYERS)
    assert (terms.feature_layers, terms.hidden_size, terms.feature_width) == (LAYERS, HIDDEN, WIDTH)
    none = convert.read_terms(welcome(hidden_size=HIDDEN), 0, asked_layers=LAYERS)
    assert (none.feature_layers, none.hidden_size, none.feature_width) == ((), 0, 0)


@pytest.mark.parametrize(
    ("layers", "size"), [((7, 2), 3), ((2,), 3), ((2, 7, 7), 3), ((2, 7), 0), ((2, 7), (1 << 15) + 1)]
)
def test_a_welcome_with_other_features_than_asked_for_is_refused(layers: tuple[int, ...], size: int):
    with pytest.raises(PacelineError) as caught:
        convert.read_terms(welcome(feature_layers=layers, hidden_size=size), 0, asked_layers=LAYERS)
    assert caught.value.reason == Reason.OUT_OF_RANGE


def test_a_welcome_with_features_that_nobody_asked_for_is_refused():
    with pytest.raises(PacelineError):
        convert.read_terms(welcome(feature_layers=LAYERS, hidden_size=HIDDEN), 0)


def test_states_are_read_position_by_position():
    numbers = np.arange(4 * WIDTH, dtype=np.float32).reshape(4, WIDTH) - 8
    found = convert.read_features(commit(7, bfloat16(numbers), length=12), TERMS)
    assert found is not None
    assert (found.first, found.end) == (7, 11)
    assert (found.values.astype(np.uint32) << 16).view(np.float32).tolist() == numbers.tolist()


@pytest.mark.parametrize(
    ("first", "values", "length", "reason"),
    [
        (0, b"\0" * (2 * WIDTH - 1), 100, Reason.MALFORMED),
        (0, b"\0" * (2 * WIDTH + 2), 100, Reason.MALFORMED),
        (8, b"\0" * (4 * WIDTH), 10, Reason.OUT_OF_RANGE),  # of the last token too, which nobody has read
        (2**32 - 1, b"\0" * (2 * WIDTH), 10, Reason.OUT_OF_RANGE),
        (0, bfloat16(np.full(WIDTH, np.nan)), 100, Reason.OUT_OF_RANGE),
        (0, bfloat16(np.array([1.0] * (WIDTH - 1) + [-np.inf])), 100, Reason.OUT_OF_RANGE),
    ],
)
def test_states_are_bounded(first: int, values: bytes, length: int, reason: Reason):
    message = commit(first, values, length)
    with pytest.raises(PacelineError) as caught:
        convert.read_features(message, TERMS)
    assert caught.value.reason == reason
    assert convert.read_commit(message, TERMS).features is None, "the commit is good"


@given(st.integers(0, 2**32 - 1), st.binary(max_size=200), st.integers(0, 2**32 - 1))
def test_any_states_are_read_or_refused(first: int, values: bytes, length: int):
    try:
        found = convert.read_features(commit(first, values, length), TERMS)
    except PacelineError:
        return
    if values:
        assert found is not None
        assert found.end < length
        assert found.values.shape == (len(values) // (2 * WIDTH), WIDTH)


def test_states_that_were_not_promised_are_not_read():
    plain = Terms("v", "m", "h", 100, 64, 8, commit_top_k=0)
    assert convert.read_features(commit(0, b"\0" * 7), plain) is None
    assert convert.read_features(drafting_pb2.Commit(length=3), TERMS) is None
