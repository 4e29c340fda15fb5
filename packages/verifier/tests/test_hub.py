"""The verifier's side of the Draft stream, without a stream: what drafters are told, and what they may say."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from tiny_models import VOCAB

from paceline.v1 import drafting_pb2
from paceline.verifier.allowance import MAX_PINGS
from paceline.verifier.hub import MAX_ANNOUNCED, DrafterHub
from paceline.verifier.link import (
    MAX_TREE_DEPTH,
    MAX_TREE_NODES,
    DrafterInfo,
    DrafterLink,
    Verification,
)
from paceline.verifier.model.batch import SessionResult, TopRows
from paceline.verifier.quarantine import FIRST_QUARANTINE_S, MAX_REFUSALS, REFUSAL_WINDOW_S, Standing
from paceline.verifier.request import Request, Speculation
from paceline.verifier.sampling import Sampling
from paceline.verifier.service import VerifierState
from paceline.verifier.session import Session
from paceline.verifier.settings import VerifierSettings
from paceline.verifier.text import TextStream
from paceline.verifier.trie import Source
from paceline.verifier.waiting import INITIAL_GAIN, INITIAL_LATENCY_S, Promise
from paceline.wire.digest import digest_of
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.tree import Anchor, DraftTree, encode_tree

PROMPT = (5, 6, 7)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class NoText:
    def decode(self, token_ids: list[int], skip_special_tokens: bool = True) -> str:
        return ""


def make_session(session_id: int = 1, **fields: Any) -> Session:
    request = Request("r", PROMPT, fields.pop("sampling", Sampling()), max_tokens=1000, **fields)
    return Session(session_id, request, TextStream(NoText(), PROMPT), frozenset(), 256)


def make_link(
    drafter_id: str = "d1",
    clock: Clock | None = None,
    commit_top_k: int = 0,
    name: str = "suffix",
    standing: Standing | None = None,
    own: bool = False,
) -> DrafterLink:
    info = DrafterInfo(drafter_id, name, ("suffix", "recycling"), commit_top_k, own)
    verification = Verification(VOCAB, 16, lambda session: b"key", lambda: 0.125, promised)
    return DrafterLink(info, standing or Standing(), verification, clock or Clock())


def promised(session: Session) -> Promise:
    """As if every candidate were worth half a token, and took a millisecond."""
    return Promise(1.0 + 0.5 * session.trie.num_nodes, 0.02 + 0.001 * session.trie.num_nodes)


def due_in_s(link: DrafterLink, session: Session) -> float | None:
    """When the next that is pending should come."""
    return min((pending.arrives_in_s for pending in link.pending(session)), default=None)


def commit(session: Session, *tokens: int) -> tuple[int, ...]:
    return session.commit(SessionResult(tokens, ()), ())


def draft(
    session: Session, *tokens: int, behind: int = 0, final: bool = True, **changes: Any
) -> drafting_pb2.DraftTree:
    """A chain of candidates anchored `behind` tokens before the end."""
    context = session.tokens[: session.length - behind]
    anchor = Anchor(session.session_id, len(context), digest_of(context))
    chain = tuple(range(-1, len(tokens) - 1))
    message = encode_tree(anchor, DraftTree(tokens, chain, (-0.5,) * len(tokens), (0,) * len(tokens)), final=final)
    for field, value in changes.items():
        if field in ("session_id", "length", "digest"):
            setattr(message.anchor, field, value)
        else:
            message.ClearField(field)
            getattr(message, field).extend(value)
    return message


def sent(link: DrafterLink) -> list[Any]:
    return [getattr(message, message.WhichOneof("message")) for message in link.outgoing()]


class Mirror:
    """What a drafter makes of the messages; every one must fit what went before."""

    def __init__(self) -> None:
        self.sessions: dict[int, list[int]] = {}

    def take(self, message: drafting_pb2.VerifierMessage) -> None:
        kind = message.WhichOneof("message")
        if kind == "opened":
            assert message.opened.session_id not in self.sessions
            assert message.opened.digest == digest_of(message.opened.tokens)
            self.sessions[message.opened.session_id] = list(message.opened.tokens)
        elif kind == "commit":
            tokens = self.sessions[message.commit.session_id]
            tokens.extend(message.commit.tokens)
            assert (message.commit.length, message.commit.digest) == (len(tokens), digest_of(tokens))
            assert message.commit.step_us == 500_000 * len(message.commit.tokens)
        else:
            del self.sessions[message.closed.session_id]


class LinkMachine(RuleBasedStateMachine):
    """Sessions come, commit and go while the stream is read at any pace, even in the middle of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.link = make_link(commit_top_k=1)
        self.sessions = {number: make_session(number) for number in range(3)}
        self.mirror = Mirror()
        self.reading = self.link.outgoing()

    @rule(number=st.integers(0, 2))
    def toggle(self, number: int) -> None:
        if self.link.serves(number):
            self.link.close(number)
        else:
            self.link.open(self.sessions[number])

    @rule(number=st.integers(0, 2), token=st.integers(0, VOCAB - 1))
    def commit(self, number: int, token: int) -> None:
        session = self.sessions[number]
        taken = commit(session, token)
        self.link.commit(session, taken, (token,), TopRows([[3, 2]]), step_s=0.5)

    @rule()
    def read_one(self) -> None:
        message = next(self.reading, None)
        if message is None:
            self.reading = self.link.outgoing()
        else:
            self.mirror.take(message)

    @rule()
    def read_all(self) -> None:
        for message in (*self.reading, *self.link.outgoing()):
            self.mirror.take(message)
        self.reading = self.link.outgoing()
        served = {number: session.tokens for number, session in self.sessions.items() if self.link.serves(number)}
        assert self.mirror.sessions == served

    def teardown(self) -> None:
        self.read_all()
        for number in self.sessions:
            self.link.close(number)
        self.read_all()
        assert not self.link.answers._states


TestLink = LinkMachine.TestCase
TestLink.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)


def test_a_session_is_announced_with_all_that_a_drafter_needs():
    link = make_link()
    session = make_session(7, sampling=Sampling(0.7, 3, 0.9, 0.1, 2**63), speculation=Speculation(None, 4))
    link.open(session)
    (opened,) = sent(link)
    assert (opened.session_id, list(opened.tokens), opened.prompt_tokens) == (7, list(PROMPT), 3)
    assert (opened.digest, opened.memory_key, opened.max_nodes) == (digest_of(PROMPT), b"key", 4)
    assert opened.least_value == 0.125
    sampling = opened.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p) == (0.7, 3, 0.9, 0.1)
    assert sampling.seed == 2**63


def test_a_slow_reader_gets_one_commit_for_many_and_a_late_joiner_the_whole_context():
    session = make_session()
    early, late = make_link("early"), make_link("late")
    early.open(session)
    sent(early)
    for tokens in ((10,), (11, 12), (13,)):
        commit(session, *tokens)
        for link in (early, late):
            link.commit(session, tokens, (), None, step_s=0.0125)
    (told,) = sent(early)
    assert list(told.tokens) == [10, 11, 12, 13]
    assert (told.length, told.digest) == (7, digest_of((*PROMPT, 10, 11, 12, 13)))
    assert told.step_us == 37_500
    assert sent(late) == []
    late.open(session)
    (opened,) = sent(late)
    assert list(opened.tokens) == [*PROMPT, 10, 11, 12, 13]
    assert opened.prompt_tokens == 3


def test_what_is_held_back_is_told_in_one_commit_later():
    link, session = make_link(), make_session()
    link.open(session)
    sent(link)
    link.hold(True)
    for token in (10, 11, 12):
        link.commit(session, commit(session, token), (token,), TopRows([[3, 2]]), step_s=0.01)
    link.hold(False)
    (told,) = sent(link)
    assert list(told.tokens) == [10, 11, 12]
    assert told.length == session.length
    assert told.step_us == 30_000
    assert not told.top_k.tokens


def test_an_announcement_that_was_not_read_yet_is_never_followed_by_its_own_tokens():
    link, session = make_link(), make_session()
    link.open(session)
    link.commit(session, commit(session, 10), (), None)
    (opened,) = sent(link)
    assert list(opened.tokens) == [*PROMPT, 10]


def test_who_asked_gets_the_targets_best_tokens_with_the_commit():
    asked, other = make_link(commit_top_k=2), make_link("d2")
    session = make_session()
    for link in (asked, other):
        link.open(session)
        sent(link)
        link.commit(session, (10, 11), (7, 10, 99), TopRows([[10, 1, 2], [11, 3, 4], [8, 9, 5]]))
    (with_rows,), (without,) = sent(asked), sent(other)
    assert with_rows.top_k.k == 2
    assert list(with_rows.top_k.tokens) == [7, 10, 99]
    assert list(with_rows.top_k.successors) == [10, 1, 11, 3, 8, 9]
    assert not without.HasField("top_k")


def test_a_draft_becomes_candidates():
    link, session = make_link(), make_session()
    link.open(session)
    assert link.receive(draft(session, 20, 21)) is session
    assert session.trie.num_nodes == 2
    assert session.trie.root.children[20].proposals == {Source("d1", "suffix"): pytest.approx(-0.5)}


def test_a_draft_for_an_earlier_state_is_used_where_it_still_fits_and_counted_where_not():
    link, session = make_link(), make_session()
    link.open(session)
    commit(session, 20, 21)
    link.receive(draft(session, 20, 21, 22, behind=2))
    assert list(session.trie.root.children) == [22]
    link.receive(draft(session, 20, 30, behind=2))
    assert list(session.trie.root.children) == [22]
    assert session.total.credit(Source("d1", "suffix")).stale == 1
    assert sent(link)[1:] == []


REFUSED = [
    ({"session_id": 99}, Reason.UNKNOWN_SESSION),
    ({"digest": 1}, Reason.WRONG_DIGEST),
    ({"length": 2}, Reason.WRONG_DIGEST),
    ({"length": 4}, Reason.WRONG_DIGEST),
    ({"tokens": [20, VOCAB]}, Reason.TOKEN_OUT_OF_VOCABULARY),
    ({"parents": [0, 2]}, Reason.TREE_MALFORMED),
    ({"parents": [0]}, Reason.TREE_MALFORMED),
    ({"log_confidence": [-1.0, math.nan]}, Reason.TREE_MALFORMED),
    ({"log_confidence": [-1.0, 0.5]}, Reason.TREE_MALFORMED),
    ({"strategy": [0, 2]}, Reason.TREE_MALFORMED),
]


@pytest.mark.parametrize(("changes", "reason"), REFUSED, ids=str)
def test_a_draft_that_can_not_be_used_is_refused_counted_and_does_nothing(changes, reason):
    link, session = make_link(), make_session()
    link.open(session)
    sent(link)
    assert link.receive(draft(session, 20, 21, **changes)) is None
    (refusal,) = sent(link)
    assert refusal.reason == reason.value
    assert refusal.detail
    assert not refusal.quarantined
    assert session.trie.num_nodes == 0
    known = changes.get("session_id") is None
    assert refusal.session_id == (1 if known else 99)
    assert session.total.credit(Source("d1", "suffix")).refused == int(known)


def test_trees_beyond_the_bounds_are_refused():
    link, session = make_link(), make_session()
    link.open(session)
    sent(link)
    link.receive(draft(session, *[9] * (MAX_TREE_NODES + 1)))
    link.receive(draft(session, *[9] * (MAX_TREE_DEPTH + 1)))
    assert [refusal.reason for refusal in sent(link)] == ["TREE_TOO_LARGE", "TREE_TOO_DEEP"]


def test_a_draft_that_crossed_the_end_of_its_session_is_nobodys_fault():
    link, session = make_link(), make_session()
    link.open(session)
    sent(link)
    link.close(1)
    assert link.receive(draft(session, 20)) is None
    (closed,) = sent(link)
    assert closed.session_id == 1
    assert isinstance(closed, drafting_pb2.SessionClosed)


def misbehave(link: DrafterLink, session: Session, times: int) -> None:
    for _ in range(times):
        link.receive(draft(session, 20, digest=1))


def test_who_misbehaves_again_and_again_is_quarantined_and_then_released():
    clock = Clock()
    link, other, session = make_link(clock=clock), make_link("d2", clock), make_session()
    for each in (link, other):
        each.open(session)
    sent(link)
    link.receive(draft(session, 20, 21))
    other.receive(draft(session, 20, 22))
    misbehave(link, session, MAX_REFUSALS - 1)
    assert not link.quarantined
    misbehave(link, session, 1)
    assert link.quarantined
    refusals = sent(link)
    assert [refusal.quarantined for refusal in refusals] == [False] * (MAX_REFUSALS - 1) + [True]
    assert refusals[-1].quarantine_s == FIRST_QUARANTINE_S
    # What only it had proposed is gone, and what it says now is not looked at.
    assert list(session.trie.root.children[20].children) == [22]
    assert link.receive(draft(session, 30)) is None
    misbehave(link, session, 3)
    assert sent(link) == []
    assert due_in_s(link, session) is None
    clock.now += FIRST_QUARANTINE_S
    assert not link.quarantined
    assert link.receive(draft(session, 30)) is session
    misbehave(link, session, MAX_REFUSALS)
    assert sent(link)[-1].quarantine_s == 2 * FIRST_QUARANTINE_S


def test_dialling_again_does_not_end_a_quarantine():
    clock = Clock()
    hub = DrafterHub()
    first, session = make_link(clock=clock, standing=hub.standings.of("d1")), make_session()
    first.open(session)
    misbehave(first, session, MAX_REFUSALS)
    hub.connect(first)
    hub.disconnect(first)
    again = make_link(clock=clock, standing=hub.standings.of("d1"))
    again.open(session)
    assert again.quarantined
    assert again.receive(draft(session, 30)) is None
    assert not make_link("d2", clock=clock, standing=hub.standings.of("d2")).quarantined
    clock.now += FIRST_QUARANTINE_S
    assert again.receive(draft(session, 30)) is session


def test_a_mistake_now_and_then_is_forgiven():
    clock = Clock()
    link, session = make_link(clock=clock), make_session()
    link.open(session)
    for _ in range(5 * MAX_REFUSALS):
        misbehave(link, session, 1)
        clock.now += REFUSAL_WINDOW_S / (MAX_REFUSALS - 1)
    assert not link.quarantined


def test_a_draft_is_due_from_the_commit_on_until_it_came_or_patience_ends():
    clock = Clock()
    link, session = make_link(clock=clock), make_session()
    assert due_in_s(link, session) is None
    link.open(session)
    assert due_in_s(link, session) == INITIAL_LATENCY_S  # not even sent
    sent(link)
    patience_s = link.answers.first.latency.patience_s
    assert due_in_s(link, session) == pytest.approx(patience_s)
    clock.now += 0.001
    assert due_in_s(link, session) == pytest.approx(patience_s - 0.001)
    clock.now += patience_s
    assert due_in_s(link, session) is None
    commit(session, 20)
    link.commit(session, (20,), (), None)
    sent(link)
    assert due_in_s(link, session) == pytest.approx(patience_s)
    link.receive(draft(session))  # final and empty: it has nothing
    assert due_in_s(link, session) is None


def test_latency_is_measured_from_the_commit_that_is_answered():
    clock = Clock()
    link, session = make_link(clock=clock), make_session()
    link.open(session)
    sent(link)
    for _ in range(100):
        commit(session, 20)
        link.commit(session, (20,), (), None)
        sent(link)
        clock.now += 0.04
        link.receive(draft(session, 21))
        clock.now += 1.0
        link.receive(draft(session, 22))  # a second answer to the same commit says nothing about latency
    assert link.answers.first.latency.mean_s == pytest.approx(0.04, rel=0.01)


def test_who_is_overdue_is_taken_for_slower_and_who_was_not_due_yet_is_not():
    clock = Clock()
    link, session = make_link(clock=clock), make_session()
    link.open(session)
    sent(link)
    before = link.answers.first.latency.mean_s, link.answers.first.latency.deviation_s
    clock.now += before[0] / 2
    link.overdue(session)
    assert (link.answers.first.latency.mean_s, link.answers.first.latency.deviation_s) == before
    clock.now += 1.0
    link.overdue(session)
    assert link.answers.first.latency.mean_s > 0.1
    after = link.answers.first.latency.mean_s
    link.receive(draft(session, 20))
    answered = link.answers.first.latency.mean_s
    assert answered > after
    link.overdue(session)
    assert link.answers.first.latency.mean_s == answered


def test_a_message_that_says_nothing_does_not_make_a_step_look_again():
    link, session = make_link(), make_session()
    link.open(session)
    sent(link)
    due_s = due_in_s(link, session)
    assert link.receive(draft(session, final=False)) is None
    assert due_in_s(link, session) == due_s
    assert link.receive(draft(session, final=True)) is session


def test_an_answer_that_finds_no_room_is_an_answer():
    link, session = make_link(), make_session()
    session.trie._max_nodes = 0
    link.open(session)
    sent(link)
    link.receive(draft(session, 20))
    assert due_in_s(link, session) is None


def test_an_answer_in_several_trees_is_complete_with_the_final_one_and_all_of_them_are_candidates():
    clock = Clock()
    link, session = make_link(clock=clock), make_session()
    link.open(session)
    sent(link)
    first, rest = link.answers.first, link.answers.rest
    clock.now += 0.002
    assert link.receive(draft(session, 20, final=False)) is session
    assert session.trie.num_nodes == 1
    assert (first.num_answers, rest.num_answers) == (1, 0)
    # The first came; only the rest is due, and what it adds is reckoned apart.
    (pending,) = link.pending(session)
    assert pending.gain is rest.gain
    assert pending.arrives_in_s == pytest.approx(rest.latency.patience_s - 0.002)
    assert link.receive(draft(session, final=False)) is None
    link.receive(draft(session, 20, 21, final=False))
    assert (first.num_answers, rest.num_answers) == (1, 0)
    clock.now += 0.02
    link.receive(draft(session, 20, 21, 22))
    assert (first.num_answers, rest.num_answers) == (1, 1)
    assert link.pending(session) == []
    assert list(session.trie.root.children) == [20]
    assert session.trie.num_nodes == 3
    commit(session, 20)
    link.commit(session, (20,), (), None)
    sent(link)
    assert [pending.gain for pending in link.pending(session)] == [first.gain, rest.gain]


def test_each_part_of_an_answer_has_its_own_latency_and_what_is_drafted_ahead_none():
    clock = Clock()
    link, session = make_link(clock=clock), make_session()
    link.open(session)
    sent(link)
    for _ in range(100):
        commit(session, 20)
        link.commit(session, (20,), (), None)
        sent(link)
        clock.now += 0.003
        link.receive(draft(session, 21, final=False))
        clock.now += 0.017
        link.receive(draft(session, 21, 22))
        for depth in range(3):
            clock.now += 0.005
            ahead = [20, 23, 24, 25][: depth + 2]
            link.receive(draft(session, *ahead, final=depth == 2))
        assert session.trie.root.children[20].children[23].children[24].children.keys() == {25}
    assert link.answers.first.latency.mean_s == pytest.approx(0.003, rel=0.01)
    assert link.answers.rest.latency.mean_s == pytest.approx(0.02, rel=0.01)
    assert link.answers.first.num_answers == link.answers.rest.num_answers == 100
    assert link.pending(session) == []


def test_what_was_drafted_ahead_serves_when_its_beginning_committed():
    link, session = make_link(), make_session()
    link.open(session)
    sent(link)
    link.receive(draft(session, 20))
    commit(session, 20)  # the step took what the answer had
    link.receive(draft(session, 20, 21, 22, behind=1))
    assert list(session.trie.root.children) == [21]
    assert due_in_s(link, session) is not None, "it is no answer to the commit, of which the drafter has not heard yet"


def test_a_part_that_is_late_is_taken_for_slower_and_the_other_is_not():
    clock = Clock()
    link, session = make_link(clock=clock), make_session()
    link.open(session)
    sent(link)
    link.receive(draft(session, 20, final=False))
    before = link.answers.first.latency.mean_s
    clock.now += 0.1
    assert link.pending(session) == []  # patience is over
    link.overdue(session)
    assert link.answers.first.latency.mean_s == before
    assert link.answers.rest.latency.mean_s > 0.03
    assert 0.9 * INITIAL_GAIN < link.answers.rest.gain.at(1.0).tokens < INITIAL_GAIN


def test_what_an_answer_adds_is_what_the_session_may_expect_more_than_before_it():
    link, session = make_link(), make_session()
    link.open(session)
    sent(link)
    length = 3
    for turn in range(200):
        commit(session, 20)
        link.hold(turn % 4 == 1)  # what comes while nobody drafts says nothing
        session.trie.graft(DraftTree((30,), (-1,), (-0.5,), (0,)), (Source("other", "s"),))
        link.commit(session, (20,), (), None)
        sent(link)
        if turn % 4 == 1:
            link.receive(draft(session, *[40] * 9, behind=0))
            continue
        link.receive(draft(session, 30, 31, final=False))  # 30 was there already: one node more
        link.receive(draft(session, 30, 31, *range(32, 32 + length)))
    first, rest = link.answers.first.gain.at(1.5), link.answers.rest.gain.at(2.0)
    assert (first.tokens, first.seconds) == (pytest.approx(0.5, rel=0.01), pytest.approx(0.001, rel=0.01))
    assert (rest.tokens, rest.seconds) == (pytest.approx(0.5 * length, rel=0.01), pytest.approx(0.003, rel=0.01))


def test_a_drafter_that_is_told_nothing_new_is_waited_for_once():
    link, session = make_link(), make_session()
    link.open(session)
    sent(link)
    link.receive(draft(session, 20))
    assert len(link.pending(session)) == 0
    link.close(1)
    link.open(session)
    assert len(link.pending(session)) == 1


def test_a_ping_is_answered_before_all_else_and_more_than_a_few_at_once_are_not():
    clock = Clock()
    link, session = make_link(clock=clock), make_session()
    link.open(session)
    link.ping(2**64 - 1)
    messages = list(link.outgoing())
    assert [message.WhichOneof("message") for message in messages] == ["pong", "opened"]
    assert messages[0].pong.nonce == 2**64 - 1
    for nonce in range(10_000):
        link.ping(nonce)
    assert len(link._talk.pongs) <= MAX_PINGS
    assert [pong.nonce for pong in sent(link)] == list(range(MAX_PINGS - 1))
    clock.now += 0.35
    for nonce in range(10):
        link.ping(nonce)
    assert [pong.nonce for pong in sent(link)] == [0, 1, 2]


def test_who_sends_more_than_its_share_of_the_loop_is_not_read_for_a_while():
    clock = Clock()
    link = make_link(clock=clock)

    def read_s(trees: int, num_nodes: int) -> float:
        """How long it takes to read so many trees one after the other."""
        started = clock.now
        for _ in range(trees):
            clock.now += link.pause_s(num_nodes)
        return clock.now - started

    assert read_s(trees=60, num_nodes=256) == 0.0  # a burst
    clock.now += 10.0
    assert read_s(trees=5000, num_nodes=256) > 5.0
    clock.now += 10.0
    started = clock.now
    for _ in range(8 * 50 * 3):  # a second of eight sessions, of fifty steps each, with three trees of 32 nodes a step
        clock.now += 1.0 / (8 * 50 * 3)
        assert link.pause_s(32) == 0.0
    assert clock.now - started == pytest.approx(1.0)


async def test_the_writer_wakes_when_there_is_something_to_send_and_when_the_link_is_shut():
    link, session = make_link(), make_session()
    link.open(session)
    await link.wait()
    assert len(sent(link)) == 1
    misbehave(link, session, 1)
    await link.wait()
    assert len(sent(link)) == 1
    link.shut()
    await link.wait()
    assert link.closed


def test_the_same_drafter_again_replaces_its_old_stream():
    hub, session = DrafterHub(), make_session()
    old, new = make_link(), make_link()
    hub.connect(old)
    hub.engage(session)
    hub.connect(new)
    assert old.closed
    assert hub.serving(session) == []
    hub.engage(session)
    assert hub.serving(session) == [new]
    hub.disconnect(old)  # its stream ends only now
    assert hub.links == {"d1": new}
    hub.disconnect(new)
    assert hub.links == {}
    assert new.closed


def test_those_serve_a_session_whom_its_speculation_wants():
    hub = DrafterHub()
    one, two, three = make_link("d1", name="suffix"), make_link("d2", name="suffix"), make_link("d3", name="recycling")
    for link in (one, two, three):
        hub.connect(link)
    session = make_session()
    everyone = [one, two, three]
    cases = [(None, everyone), (("suffix",), [one, two]), (("d2", "recycling"), [two, three]), ((), [])]
    for wanted, links in cases:
        session.speculation = Speculation(wanted)
        hub.check(session.speculation)
        hub.engage(session)
        assert hub.serving(session) == links
    with pytest.raises(PacelineError, match=r"'nobody'; connected are: d1, d2, d3, recycling, suffix") as caught:
        hub.check(Speculation(("suffix", "nobody")))
    assert caught.value.reason is Reason.UNKNOWN_DRAFTER


def test_somebodys_own_drafter_serves_only_those_who_name_its_id():
    hub = DrafterHub()
    own, other = make_link("alice-1", name="suffix", own=True), make_link("d2", name="suffix")
    for link in (own, other):
        hub.connect(link)
    session = make_session()
    cases = [
        (None, [other]),
        (("suffix",), [other]),
        (("alice-1",), [own]),
        (("alice-1", "suffix"), [own, other]),
        (("alice-1", "d2"), [own, other]),
        ((), []),
    ]
    for wanted, links in cases:
        session.speculation = Speculation(wanted)
        hub.check(session.speculation)
        hub.engage(session)
        assert hub.serving(session) == links, wanted


def test_the_own_drafters_of_many_do_not_displace_those_that_routers_choose_among():
    hub = DrafterHub()
    for number in range(MAX_ANNOUNCED):
        hub.connect(make_link(f"own-{number}", own=True))
    hub.connect(make_link("d1"))
    assert hub.announced() == ["d1", *[f"own-{number}" for number in range(MAX_ANNOUNCED - 1)]]


def test_somebodys_own_drafter_is_not_told_of_to_others():
    hub = DrafterHub()
    hub.connect(make_link("alice-1", name="alices", own=True))
    hub.connect(make_link("d2", name="suffix"))
    for name in ("alices", "nobody"):
        with pytest.raises(PacelineError, match="connected are: d2, suffix") as caught:
            hub.check(Speculation((name,)))
        assert caught.value.reason is Reason.UNKNOWN_DRAFTER
        assert "alice-1" not in caught.value.message


def test_who_is_disengaged_loses_its_candidates_and_the_others_keep_theirs():
    hub, session = DrafterHub(), make_session()
    one, two = make_link("d1"), make_link("d2")
    for link in (one, two):
        hub.connect(link)
    hub.engage(session)
    one.receive(draft(session, 20, 21))
    two.receive(draft(session, 20))
    session.speculation = Speculation(("d2",))
    hub.engage(session)
    assert set(session.trie.root.children[20].proposals) == {Source("d2", "suffix")}
    assert session.trie.num_nodes == 1
    hub.close(session)
    assert hub.serving(session) == []


def test_memory_is_apart_for_each_tenant_and_none_for_who_opted_out():
    state, other = VerifierState(VerifierSettings(), "v"), VerifierState(VerifierSettings(), "v")
    keys = [state.memory_key(make_session(tenant=tenant)) for tenant in ("", "a", "b", "a")]
    assert len(set(keys)) == 3
    assert keys[1] == keys[3]
    assert all(len(key) == 16 and key != b"a" for key in keys)
    assert state.memory_key(make_session(tenant="a", no_store=True)) == b""
    assert other.memory_key(make_session(tenant="a")) != keys[1]  # opaque: not to be computed from the name
