"""A shadow session on a drafter's link, without a stream: what is told, what is taken, and when it is given up."""

from __future__ import annotations

from typing import Any

import pytest
from tiny_models import VOCAB

from paceline.v1 import drafting_pb2
from paceline.verifier.convert import shadow_message
from paceline.verifier.link import DrafterInfo, DrafterLink, Verification
from paceline.verifier.model.batch import SessionResult
from paceline.verifier.quarantine import MAX_REFUSALS, Standing
from paceline.verifier.request import Request
from paceline.verifier.sampling import Sampling
from paceline.verifier.session import Session
from paceline.verifier.shadow_talk import MAX_PARTS, ShadowTalk
from paceline.verifier.text import TextStream
from paceline.verifier.waiting import Promise
from paceline.wire.digest import digest_of
from paceline.wire.tree import Anchor, DraftTree, encode_tree

PROMPT = (5, 6, 7)
ANSWER = (8, 9, 10, 11, 12)
SHADOW_ID = 77


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class NoText:
    def decode(self, token_ids: list[int], skip_special_tokens: bool = True) -> str:
        return ""


class Desk:
    """A link, a session that is over, and its shadow, as it stood after two tokens."""

    def __init__(self) -> None:
        self.clock = Clock()
        verification = Verification(
            VOCAB, 16, lambda _session: b"key", lambda: 0.1, lambda _session: Promise(1.0, 0.02)
        )
        self.link = DrafterLink(DrafterInfo("d1", "d", ("s",), 2), Standing(), verification, self.clock)
        self.session = session(1)
        self.session.commit(SessionResult(ANSWER, ()), ())
        self.talk = ShadowTalk(shadow_message(self.session, SHADOW_ID, 5, b"key", 16, 0.1), self.clock)

    def sent(self) -> list[Any]:
        return [getattr(message, message.WhichOneof("message")) for message in self.link.outgoing()]

    def begin(self) -> drafting_pb2.SessionOpened:
        self.link.shadow(self.talk)
        (opened,) = self.sent()
        return opened

    def draft(self, length: int, *tokens: int, final: bool = True, **wrong: Any) -> None:
        context = self.session.tokens[:length]
        anchor = Anchor(SHADOW_ID, length, wrong.get("digest", digest_of(context)))
        tree = DraftTree(tokens, tuple(range(-1, len(tokens) - 1)), (-0.5,) * len(tokens), (0,) * len(tokens))
        assert self.link.receive(encode_tree(anchor, tree, final=final)) is None


def session(session_id: int) -> Session:
    request = Request("r", PROMPT, Sampling(), max_tokens=1000)
    return Session(session_id, request, TextStream(NoText(), PROMPT), frozenset(), 256)


def test_it_is_announced_as_it_stood_and_goes_on_by_commits() -> None:
    desk = Desk()
    opened = desk.begin()
    assert (opened.session_id, list(opened.tokens)) == (SHADOW_ID, [*PROMPT, 8, 9])
    assert (opened.digest, opened.prompt_tokens) == (digest_of([*PROMPT, 8, 9]), 3)
    assert opened.shadow
    desk.talk.commit([10, 11], 2, [[1, 2, 3], ()], [9, 10])
    (commit,) = desk.sent()
    assert (commit.session_id, list(commit.tokens), commit.length) == (SHADOW_ID, [10, 11], 7)
    assert commit.digest == digest_of([*PROMPT, 8, 9, 10, 11])
    assert (commit.top_k.k, list(commit.top_k.tokens), list(commit.top_k.successors)) == (2, [9], [1, 2])
    desk.link.end_shadow(desk.talk)
    (closed,) = desk.sent()
    assert closed.session_id == SHADOW_ID


def test_an_answer_is_what_came_for_the_latest_state_and_when() -> None:
    desk = Desk()
    desk.begin()
    desk.clock.now += 0.003
    desk.draft(5, final=False)  # nothing, and not the end of it
    desk.draft(5, 10, final=False)
    assert not desk.talk.settled
    desk.clock.now += 0.002
    desk.draft(5, 10, 11)
    assert desk.talk.settled
    desk.draft(5, 12)  # drafted ahead
    assert [(round(part.after_s, 6), part.tree.tokens) for part in desk.talk.answer] == [
        (0.003, (10,)),
        (0.005, (10, 11)),
    ]
    desk.talk.commit([10], 0, [()], [9])
    desk.sent()
    assert not desk.talk.settled
    desk.draft(5, 10)
    assert desk.talk.answer == []
    desk.draft(6, 11)
    assert [part.tree.tokens for part in desk.talk.answer] == [(11,)]


def test_an_answer_to_what_was_not_sent_yet_is_none() -> None:
    desk = Desk()
    desk.link.shadow(desk.talk)
    desk.draft(5, 10)
    assert not desk.talk.settled


def test_an_answer_in_very_many_parts_is_cut() -> None:
    desk = Desk()
    desk.begin()
    for _ in range(MAX_PARTS + 5):
        desk.draft(5, 10, final=False)
    assert len(desk.talk.answer) == MAX_PARTS
    desk.draft(5, 10)
    assert desk.talk.settled


@pytest.mark.parametrize(("length", "digest"), [(5, 1), (4, None), (6, None)])
def test_a_draft_for_another_context_is_refused_and_counts(length: int, digest: int | None) -> None:
    desk = Desk()
    desk.begin()
    for _ in range(MAX_REFUSALS):
        desk.draft(length, 10, **({} if digest is None else {"digest": digest}))
    refusals = desk.sent()
    assert {refusal.reason for refusal in refusals} == {"WRONG_DIGEST"}
    assert desk.link.quarantined
    assert not desk.talk.settled


def test_a_session_or_the_streams_end_gives_it_up() -> None:
    for interrupt in (lambda desk: desk.link.open(session(2)), lambda desk: desk.link.shut()):
        desk = Desk()
        desk.begin()
        interrupt(desk)
        assert desk.talk.settled
        assert desk.talk.given_up
        assert not desk.link.idle
    late = Desk()
    late.link.open(session(2))
    late.link.shadow(late.talk)
    assert late.talk.given_up


def test_who_has_something_to_do_or_may_do_nothing_is_not_idle() -> None:
    desk = Desk()
    assert desk.link.idle
    desk.link.hold(True)
    assert not desk.link.idle
    desk.link.hold(False)
    desk.link.shadow(desk.talk)
    assert not desk.link.idle
    desk.link.end_shadow(desk.talk)
    assert desk.sent() == []  # it never heard of it
    assert desk.link.idle


def test_a_draft_that_crosses_the_end_is_nobodys_fault() -> None:
    desk = Desk()
    desk.begin()
    desk.link.end_shadow(desk.talk)
    desk.draft(5, 10)
    (closed,) = desk.sent()
    assert closed.session_id == SHADOW_ID
