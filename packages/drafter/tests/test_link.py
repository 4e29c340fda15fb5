"""The stream to a verifier, over real sockets."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from paceline.drafter import convert
from paceline.drafter import link as link_module
from paceline.drafter.identity import Identity
from paceline.drafter.link import Link
from paceline.drafter.presence import make_fleet
from paceline.drafter.service import make_drafting, make_identity
from paceline.drafter.session import MAX_CONTEXT_TOKENS, Terms
from paceline.drafter.settings import DrafterSettings
from paceline.v1 import drafting_pb2, types_pb2
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.tree import TreeBounds, decode_tree

VOCAB = 1000
LOOP = [1, 2, 3, 4] * 5
BOUNDS = TreeBounds(max_nodes=16, max_depth=8, vocab_size=VOCAB, num_strategies=2)


def new_link(address: str) -> Link:
    settings = DrafterSettings(drafter_id="d1", name="test", verifiers=address)
    identity = make_identity(settings)
    link = make_fleet(settings, lambda: identity, make_drafting(settings))._new_link(address)
    assert isinstance(link, Link)
    return link


@asynccontextmanager
async def linked(address: str) -> AsyncIterator[Link]:
    link = new_link(address)
    task = asyncio.create_task(link.run())
    try:
        yield link
    finally:
        await link.close()
        await task


async def test_hello_says_who_drafts_and_how(start_verifier: Any) -> None:
    verifier = await start_verifier()
    async with linked(verifier.address):
        hello = (await verifier.stream()).hello
    assert (hello.drafter_id, hello.name, hello.commit_top_k) == ("d1", "test", 8)
    assert list(hello.strategies) == ["suffix", "recycling"]
    assert hello.peer.package == "paceline-drafter"
    assert hello.peer.protocol_major == 1


async def test_the_link_is_measured_while_there_is_something_to_draft(start_verifier: Any) -> None:
    verifier = await start_verifier(peer=types_pb2.Peer(protocol_major=1, protocol_minor=1))
    async with linked(verifier.address) as link:
        stream = await verifier.stream()
        stream.open(1, [1, 2, 3])
        await stream.draft()
        async with asyncio.timeout(10.0):
            await stream.pinged.wait()
            assert link._stream is not None
            pace = link._stream.sessions.pace
            while not pace.round_trip_s:
                await asyncio.sleep(0.01)
        assert 0.0 < pace.round_trip_s < 10.0


async def test_a_verifier_of_protocol_1_0_is_not_pinged(start_verifier: Any) -> None:
    verifier = await start_verifier(peer=types_pb2.Peer(protocol_major=1, protocol_minor=0))
    async with linked(verifier.address):
        stream = await verifier.stream()
        stream.open(1, [1, 2, 3])
        await stream.draft()
        stream.commit(1, [4])
        await stream.draft()
        assert not stream.pinged.is_set()


async def test_every_opening_and_commit_is_answered_with_a_valid_tree(start_verifier: Any) -> None:
    verifier = await start_verifier()
    async with linked(verifier.address):
        stream = await verifier.stream()
        stream.open(7, LOOP)
        draft = await stream.draft()
        assert stream.is_current(draft)
        anchor, tree = decode_tree(draft, BOUNDS)
        assert anchor.session_id == 7
        assert tree.tokens[0] == 1
        top_k = drafting_pb2.TopK(k=2, tokens=[4, 1], successors=[50, 51, 52, 53])
        stream.commit(7, [1], top_k=top_k)
        draft = await stream.draft()
        assert stream.is_current(draft)
        _, tree = decode_tree(draft, BOUNDS)
        assert {2, 52} <= set(tree.tokens)
        assert draft.draft_us > 0


async def test_a_burst_of_commits_ends_with_a_draft_for_the_last(start_verifier: Any) -> None:
    verifier = await start_verifier()
    async with linked(verifier.address):
        stream = await verifier.stream()
        for session_id in (1, 2, 3):
            stream.open(session_id, LOOP)
        for token in LOOP * 5:
            for session_id in (1, 2, 3):
                stream.commit(session_id, [token])
        current: set[int] = set()
        while current != {1, 2, 3}:
            draft = await stream.draft()
            if stream.is_current(draft):
                current.add(draft.anchor.session_id)
        assert stream.received.empty()


async def test_bad_messages_cost_their_session_and_not_the_stream(start_verifier: Any) -> None:
    verifier = await start_verifier()
    async with linked(verifier.address):
        stream = await verifier.stream()
        stream.open(1, [1, VOCAB])
        stream.open(2, [])
        stream.open(3, [1, 2], digest=99)
        stream.send(welcome=drafting_pb2.Welcome())
        stream.to_send.put_nowait(drafting_pb2.VerifierMessage())
        stream.open(4, LOOP)
        assert (await stream.draft()).anchor.session_id == 4
        stream.commit(4, [VOCAB + 5])
        stream.commit(4, [1])
        stream.open(5, LOOP)
        assert (await stream.draft()).anchor.session_id == 5
        assert stream.received.empty()


async def test_a_restarted_verifier_is_found_again(make_verifier: Any) -> None:
    verifier = make_verifier()
    async with verifier.serving():
        link = new_link(verifier.address)
        task = asyncio.create_task(link.run())
        stream = await verifier.stream()
        stream.open(7, LOOP)
        await stream.draft()
    async with verifier.serving():
        stream = await verifier.stream()
        stream.open(7, [1, 2, 1])
        assert stream.is_current(await stream.draft())
        await link.close()
        await task


async def test_a_verifier_that_closes_the_stream_is_dialled_again(start_verifier: Any) -> None:
    verifier = await start_verifier()
    async with linked(verifier.address):
        (await verifier.stream()).to_send.put_nowait(None)
        await verifier.stream()
    assert verifier.num_attempts == 2


async def test_a_refusal_that_passes_is_waited_out(start_verifier: Any) -> None:
    busy = PacelineError(Reason.DUPLICATE_DRAFTER, "the old stream is still there")
    verifier = await start_verifier(refusals=[busy, busy])
    async with linked(verifier.address):
        await verifier.stream()
    assert verifier.num_attempts == 3


@pytest.mark.parametrize("how", ["welcome", "refusal"])
async def test_an_incompatible_verifier_is_left_alone_for_long(
    how: str, start_verifier: Any, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    pause_after = Link._pause_after
    monkeypatch.setattr(Link, "_pause_after", lambda link, error: pauses.append(pause_after(link, error)) or pauses[-1])
    if how == "welcome":
        verifier = await start_verifier(peer=types_pb2.Peer(package="other", protocol_major=9))
    else:
        verifier = await start_verifier(refusals=[PacelineError(Reason.INCOMPATIBLE_VERSION, "too old")])
    async with linked(verifier.address):
        await eventually(lambda: bool(pauses))
    assert len(pauses) == 1
    assert pauses[0] >= link_module.INCOMPATIBLE_PAUSE_S
    assert verifier.num_attempts == 1


def test_pauses_grow_to_a_limit_and_start_anew_after_a_success() -> None:
    async def scenario() -> None:
        link = new_link("127.0.0.1:1")
        link._jitter = lambda: 1.0
        assert [link._pause_s() for _ in range(8)] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])
        link._jitter = lambda: 0.0
        assert link._pause_s() == pytest.approx(2.5)

    asyncio.run(scenario())


async def test_a_quarantined_drafter_listens_but_does_not_draft(start_verifier: Any) -> None:
    verifier = await start_verifier()
    async with linked(verifier.address):
        stream = await verifier.stream()
        stream.open(7, LOOP)
        await stream.draft()
        quarantine_s = 0.4
        started = time.monotonic()
        stream.send(refusal=drafting_pb2.Refusal(reason="QUARANTINED", quarantined=True, quarantine_s=quarantine_s))
        for token in LOOP:
            stream.commit(7, [token])
        draft = await stream.draft()
        assert time.monotonic() - started >= quarantine_s
        assert stream.is_current(draft), "what was committed meanwhile is known"
        assert stream.received.empty()


async def test_other_refusals_do_not_stop_the_drafter(start_verifier: Any) -> None:
    verifier = await start_verifier()
    async with linked(verifier.address):
        stream = await verifier.stream()
        stream.send(refusal=drafting_pb2.Refusal(reason="WRONG_DIGEST", session_id=7))
        stream.send(refusal=drafting_pb2.Refusal(reason="no such reason", quarantined=True, quarantine_s=math.nan))
        stream.open(7, LOOP)
        assert stream.is_current(await stream.draft())


async def test_closing_says_goodbye_and_closes_its_side(start_verifier: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "GOODBYE_S", 10.0)  # long enough to see that it is not what ended the stream
    verifier = await start_verifier()
    async with linked(verifier.address):
        stream = await verifier.stream()
        stream.open(7, LOOP)
        await stream.draft()
        started = time.monotonic()
    assert time.monotonic() - started < 5.0
    message = await stream.next()
    assert message is not None
    assert message.WhichOneof("message") == "goodbye"
    assert await stream.next() is None


@pytest.mark.parametrize("state", ["quarantined", "no verifier", "verifier deaf to goodbye"])
async def test_closing_is_quick_whatever_the_verifier_does(
    state: str, start_verifier: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "GOODBYE_S", 0.2)
    verifier = await start_verifier()
    address = verifier.address if state != "no verifier" else "127.0.0.1:1"
    async with linked(address):
        if state != "no verifier":
            stream = await verifier.stream()
            stream.open(7, LOOP)
            await stream.draft()
            if state == "quarantined":
                stream.send(refusal=drafting_pb2.Refusal(quarantined=True, quarantine_s=600))
            else:
                monkeypatch.setattr(stream.to_send, "put_nowait", lambda _message: None)  # never closes its side
        started = time.monotonic()
    assert time.monotonic() - started < 2.0


# what crosses the border

TERMS = Terms("v", "m", "h", VOCAB, 64, 8, commit_top_k=8)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"tokens": [1, VOCAB]}, Reason.TOKEN_OUT_OF_VOCABULARY),
        ({"tokens": []}, Reason.EMPTY_PROMPT),
        ({"tokens": [1], "prompt_tokens": 2}, Reason.OUT_OF_RANGE),
        ({"tokens": [1] * (MAX_CONTEXT_TOKENS + 1)}, Reason.PROMPT_TOO_LONG),
        ({"tokens": [1], "least_value": math.nan}, Reason.OUT_OF_RANGE),
        ({"tokens": [1], "least_value": math.inf}, Reason.OUT_OF_RANGE),
        ({"tokens": [1], "least_value": -0.1}, Reason.OUT_OF_RANGE),
    ],
)
def test_openings_are_bounded(fields: dict[str, Any], reason: Reason) -> None:
    with pytest.raises(PacelineError) as caught:
        convert.read_opening(drafting_pb2.SessionOpened(**fields), TERMS)
    assert caught.value.reason == reason
    assert str(VOCAB + 1) not in caught.value.message


def test_what_a_verifier_says_of_its_pace_is_read_and_one_of_protocol_1_0_says_nothing() -> None:
    opened = drafting_pb2.SessionOpened(tokens=[1], least_value=0.25)
    assert convert.read_opening(opened, TERMS).least_value == 0.25
    assert convert.read_opening(drafting_pb2.SessionOpened(tokens=[1]), TERMS).least_value == 0.0
    assert convert.read_commit(drafting_pb2.Commit(step_us=12_500), TERMS).step_s == pytest.approx(0.0125)
    assert convert.read_commit(drafting_pb2.Commit(), TERMS).step_s == 0.0


def test_a_ping_and_its_pong_carry_any_nonce() -> None:
    for nonce in (0, 7, 2**64 - 1):
        message = drafting_pb2.DrafterMessage.FromString(convert.ping(nonce).SerializeToString())
        assert message.WhichOneof("message") == "ping"
        assert convert.read_pong(drafting_pb2.Pong(nonce=message.ping.nonce)) == nonce


def test_hello_and_the_announcement_say_whether_the_drafter_is_somebodys_own() -> None:
    for own in (False, True):
        assert convert.hello("d", "n", ["s"], 0, own).hello.own is own
        assert convert.member(Identity("d", "n", ("s",), 0, own)).own is own


def test_somebodys_own_drafter_leaves_a_verifier_that_would_announce_everybody_to_it() -> None:
    old = welcome_of(peer=types_pb2.Peer(protocol_major=1, protocol_minor=0))
    assert convert.read_terms(old, 8).vocab_size == 10
    with pytest.raises(PacelineError, match=r"speaks protocol 1\.0") as caught:
        convert.read_terms(old, 8, own=True)
    assert caught.value.reason is Reason.INCOMPATIBLE_VERSION
    new = welcome_of(peer=types_pb2.Peer(protocol_major=1, protocol_minor=1))
    assert convert.read_terms(new, 8, own=True).vocab_size == 10


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"k": 9, "tokens": [1], "successors": [1] * 9}, Reason.OUT_OF_RANGE),
        ({"k": 0, "tokens": [1], "successors": []}, Reason.OUT_OF_RANGE),
        ({"k": 2, "tokens": [1, 2], "successors": [1, 2, 3]}, Reason.MALFORMED),
        ({"k": 1, "tokens": [VOCAB], "successors": [1]}, Reason.TOKEN_OUT_OF_VOCABULARY),
        ({"k": 1, "tokens": [1], "successors": [VOCAB]}, Reason.TOKEN_OUT_OF_VOCABULARY),
        ({"k": 1, "tokens": [1] * 20_000, "successors": [1] * 20_000}, Reason.OUT_OF_RANGE),
    ],
)
def test_top_k_is_bounded(fields: dict[str, Any], reason: Reason) -> None:
    with pytest.raises(PacelineError) as caught:
        convert.read_commit(drafting_pb2.Commit(top_k=drafting_pb2.TopK(**fields)), TERMS)
    assert caught.value.reason == reason


def welcome_of(**fields: Any) -> drafting_pb2.VerifierMessage:
    peer = types_pb2.Peer(protocol_major=1)
    return drafting_pb2.VerifierMessage(welcome=drafting_pb2.Welcome(**{"peer": peer, "vocab_size": 10} | fields))


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (drafting_pb2.VerifierMessage(commit=drafting_pb2.Commit()), Reason.MALFORMED),
        (welcome_of(vocab_size=0), Reason.OUT_OF_RANGE),
        (welcome_of(vocab_size=1 << 31), Reason.OUT_OF_RANGE),
        (welcome_of(commit_top_k=9), Reason.OUT_OF_RANGE),
        (welcome_of(peer=types_pb2.Peer(protocol_major=2)), Reason.INCOMPATIBLE_VERSION),
    ],
)
def test_a_welcome_is_checked(message: drafting_pb2.VerifierMessage, reason: Reason) -> None:
    with pytest.raises(PacelineError) as caught:
        convert.read_terms(message, 8)
    assert caught.value.reason == reason
    assert convert.read_terms(welcome_of(), 8).vocab_size == 10


@pytest.mark.parametrize(
    ("quarantined", "seconds", "expected"),
    [(True, 5, 5), (False, 5, 0), (True, -1, 0), (True, math.nan, 0), (True, math.inf, 0), (True, 1e9, 3600)],
)
def test_quarantine_is_bounded(quarantined: bool, seconds: float, expected: float) -> None:
    refusal = drafting_pb2.Refusal(quarantined=quarantined, quarantine_s=seconds)
    assert convert.read_quarantine_s(refusal) == expected
