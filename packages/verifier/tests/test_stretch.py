"""What a drafter is told of hidden states: what it asked for, one stretch, and no more than a message holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.v1 import drafting_pb2
from paceline.verifier.link import DrafterInfo, DrafterLink, Verification
from paceline.verifier.model.batch import SessionResult, TopRows
from paceline.verifier.model.features import Features, FeatureSource
from paceline.verifier.quarantine import Standing
from paceline.verifier.request import Request
from paceline.verifier.sampling import Sampling
from paceline.verifier.session import Session
from paceline.verifier.stretch import MAX_FEATURE_WINDOW, NO_FEATURES, FeatureWish, Stretch, granted
from paceline.verifier.text import TextStream
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.model_card import MAX_FEATURE_LAYERS

SOURCE = FeatureSource(num_layers=30, hidden_size=4)
CAPTURED = (0, 3, 7)
PROMPT = tuple(range(20))


def features(first: int, end: int, layers: tuple[int, ...] = CAPTURED) -> Features:
    """At position p, behind layer l, the number i is 1000 p + 10 l + i."""
    positions, columns = np.arange(first, end), np.array(layers)
    values = 1000 * positions[:, None, None] + 10 * columns[None, :, None] + np.arange(4)
    return Features(first, layers, values.astype(np.uint16))


def told(first: int, values: bytes, layers: tuple[int, ...]) -> list[int]:
    """The positions, each of whose numbers is as it should be."""
    numbers = np.frombuffer(values, dtype="<u2").reshape(-1, len(layers), 4)
    expected = features(first, first + len(numbers), layers)
    assert np.array_equal(numbers, expected.values)
    return list(range(expected.first, expected.end))


def test_what_is_granted_is_what_was_asked_for_as_far_as_a_message_holds_it():
    message = 1 << 20
    assert granted((), 5, SOURCE, message) == NO_FEATURES
    assert granted((3, 0), 5, None, message) == NO_FEATURES
    assert granted((3, 0, 30), 0, SOURCE, message) == FeatureWish((3, 0, 30), MAX_FEATURE_WINDOW, MAX_FEATURE_WINDOW)
    assert granted((3, 0), 5, SOURCE, message).window == 5
    assert granted((3, 0), 1 << 31, SOURCE, message).window == MAX_FEATURE_WINDOW
    wide = FeatureSource(30, 8192)
    assert granted((1, 2), 0, wide, message) == FeatureWish((1, 2), 16, 16)
    assert granted(tuple(range(8)), 0, wide, 1 << 16) == NO_FEATURES


@pytest.mark.parametrize(
    ("layers", "value", "limit"),
    [
        ((1,) * (MAX_FEATURE_LAYERS + 1), "9 entries", "at most 8"),
        ((0, 31), "31", "at most 30, the number of the target's layers"),
    ],
    ids=str,
)
def test_what_can_not_be_granted_is_refused_with_field_value_and_limit(layers, value, limit):
    with pytest.raises(PacelineError) as caught:
        granted(layers, 0, SOURCE, 1 << 20)
    error = caught.value
    assert error.reason is Reason.OUT_OF_RANGE
    assert (error.field, str(error.value), error.limit) == ("hello.feature_layers", value, limit)


@given(
    st.integers(1, 40),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9), st.sampled_from([CAPTURED, (0, 3), (3, 0, 9)]))),
    st.sampled_from([(0, 3), (3,), (3, 0, 3)]),
)
def test_a_stretch_is_the_latest_positions_without_a_gap(most, parts, layers):
    stretch, at = Stretch(most), 0
    expected: list[int] = []
    for gap, count, captured in parts:
        at += gap
        if count and expected and expected[-1] + 1 < at:
            expected = []
        stretch.add(features(at, at + count, captured))
        expected = [*expected, *range(at, at + count)][-most:]
        at += count
        assert len(stretch) == len(expected)
    if expected:
        assert told(*stretch.take(layers), layers) == expected
        assert not stretch


def make_link(layers: tuple[int, ...] = (7, 0), window: int = 100, most: int = 100, top_k: int = 0) -> DrafterLink:
    info = DrafterInfo(
        "d", "test", ("s",), top_k, features=FeatureWish(layers, window, most) if layers else NO_FEATURES
    )
    verification = Verification(100, 16, lambda session: b"", lambda: 0.0, lambda session: 0.0)
    return DrafterLink(info, Standing(), verification, lambda: 0.0)


class NoText:
    def decode(self, token_ids: list[int], skip_special_tokens: bool = True) -> str:
        return ""


def make_session() -> Session:
    request = Request("r", PROMPT, Sampling(), max_tokens=1000)
    return Session(1, request, TextStream(NoText(), PROMPT), frozenset(), 256)


def commit(session: Session, count: int, *links: DrafterLink, chain: int = 1, captured: Any = CAPTURED) -> None:
    """A step that read the last `chain` tokens, and committed `count`, all but one of them accepted candidates."""
    before = session.length
    tokens = session.commit(SessionResult(tuple(range(count)), ()), ())
    found = None if captured is None else features(before - chain, before + count - 1, captured)
    for link in links:
        link.commit(session, tokens, (5,), TopRows([[1]]), 0.0, found)


def sent(link: DrafterLink) -> list[Any]:
    return [getattr(message, message.WhichOneof("message")) for message in link.outgoing()]


def positions(message: drafting_pb2.Commit, layers: tuple[int, ...] = (7, 0)) -> list[int]:
    return told(message.features.first, message.features.values, layers)


def opened(*links: DrafterLink) -> Session:
    session = make_session()
    for link in links:
        link.open(session)
        sent(link)
    return session


def test_each_drafter_gets_its_layers_with_every_commit_up_to_the_last_but_one_token():
    some, other, none = make_link(), make_link((3,)), make_link(())
    session = opened(some, other, none)
    for count in (1, 4, 1):
        before = session.length
        commit(session, count, some, other, none)
        (first,), (second,), (third,) = sent(some), sent(other), sent(none)
        assert positions(first) == positions(second, (3,)) == list(range(before - 1, session.length - 1))
        assert not third.HasField("features")


def test_a_prompts_chunks_are_told_with_the_first_commit_as_far_as_the_window_reaches():
    whole, last = make_link(), make_link(window=7)
    session = opened(whole, last)
    for first, end in ((4, 9), (9, 15)):
        for link in (whole, last):
            link.read(session, features(first, end))
            assert sent(link) == []
    commit(session, 3, whole, last, chain=5)
    (first,), (second,) = sent(whole), sent(last)
    assert positions(first) == list(range(4, 22))  # what was before was found in the cache
    assert positions(second) == list(range(13, 22))
    commit(session, 2, last)
    (third,) = sent(last)
    assert positions(third) == [22, 23]


def test_commits_that_are_told_as_one_bring_their_features_together_but_no_more_than_a_message_holds():
    link, short = make_link(window=2), make_link(window=2, most=5)
    session = opened(link, short)
    for held in (False, True, False):
        for each in (link, short):
            each.hold(held)
        for _ in range(3):
            commit(session, 2, link, short)
    (whole,), (bounded,) = sent(link), sent(short)
    assert positions(whole) == list(range(19, 37))
    assert positions(bounded) == list(range(32, 37))
    assert len(whole.tokens) == len(bounded.tokens) == 18


def test_who_joins_while_a_step_runs_gets_features_of_the_next_one():
    link = make_link()
    session = opened(link)
    commit(session, 2, link, captured=None)  # nobody had asked when it was planned
    commit(session, 2, link, captured=(0,))  # others had
    assert not sent(link)[0].HasField("features")
    commit(session, 2, link)
    commit(session, 2, link, captured=(0,))
    commit(session, 2, link, captured=(0, 7))
    (message,) = sent(link)
    assert positions(message) == [27, 28]  # one stretch, the latest


def test_an_announcement_that_was_not_read_yet_is_followed_by_the_features_of_its_own_tokens():
    link, session = make_link(), make_session()
    link.open(session)
    link.read(session, features(0, 12))
    (opening,) = sent(link)
    assert len(opening.tokens) == 20
    link.close(1)
    sent(link)
    link.open(session)
    link.read(session, features(0, 12))
    commit(session, 1, link, chain=8)
    opening, message = sent(link)
    assert len(opening.tokens) == 21
    assert (list(message.tokens), message.length) == ([], 21)
    assert positions(message) == list(range(20))


def test_features_of_candidates_behind_the_answers_end_are_not_told():
    link = make_link()
    session = opened(link)
    tokens = session.commit(SessionResult((5, 6), ()), ())  # it ended there, the step had accepted four
    link.commit(session, tokens, (), None, 0.0, features(19, 24))
    (message,) = sent(link)
    assert positions(message) == [19, 20]


def test_what_was_gathered_goes_with_its_session():
    link = make_link()
    session = opened(link)
    link.read(session, features(0, 12))
    link.close(1)
    link.read(session, features(12, 14))
    sent(link)
    link.open(session)
    sent(link)
    commit(session, 1, link)
    (message,) = sent(link)
    assert positions(message) == [19]
