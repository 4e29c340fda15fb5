"""Drafters that weren't engaged are scored on verified text: over real streams, beside real requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from service_at_work import (
    DEADLINE_S,
    GREEDY,
    HOT,
    OFF,
    PROMPT,
    Client,
    Drafter,
    GatedModel,
    Propose,
    chain,
    eventually,
    running,
    silent,
    talks_garbage,
)
from tiny_models import save_target

from paceline.v1 import drafting_pb2, generation_pb2, types_pb2
from paceline.verifier.waiting import Latency
from paceline.wire.errors import Reason
from paceline.wire.version import make_peer

SEGMENT = 32
PATIENT_S = 0.2
ALONE = types_pb2.Speculation(off=True, shadow=4)
JUNK = 61  # a token that the tiny model's answers here don't have where it is proposed


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_target(tmp_path_factory.mktemp("target"))


@pytest.fixture
async def start(folder) -> AsyncIterator[Callable[..., Any]]:
    async with AsyncExitStack() as stack:
        yield lambda **settings: stack.enter_async_context(
            running(folder, shadow_share=1.0, engine="transformers", **settings)
        )


def num_right(position: int) -> int:
    """Of what `knows_in_part` proposes for the answer's tokens from there on."""
    return (position * position + 2) % 5


def knows_in_part(answer: Sequence[int]) -> Propose:
    """Proposes the right tokens, as many as `num_right` says, and then a wrong one."""

    def propose(session_id: int, context: list[int]) -> list[drafting_pb2.DraftTree]:
        at = len(context) - len(PROMPT)
        right = list(answer[at : at + num_right(at)])
        follows = answer[at + len(right)] if at + len(right) < len(answer) else JUNK
        return [chain(session_id, context, [*right, (follows + 1) % JUNK])]

    return propose


def worth(begin: int, length: int) -> tuple[int, int, int]:
    """Tokens, steps and candidates of a segment that begins there, for one whose only drafter knows in part."""
    at = begin
    steps = nodes = 0
    while at < begin + length:
        steps += 1
        nodes += num_right(at) + 1
        at += num_right(at) + 1
    return at - begin, steps, nodes


async def scored(client: Client, **fields: Any) -> list[generation_pb2.ShadowScore]:
    """Asks for scores until some come."""
    fields = {"max_tokens": 3 * SEGMENT, "segment_tokens": SEGMENT, "speculation": ALONE, **fields}
    async with asyncio.timeout(DEADLINE_S):
        while True:
            answer = await client.generate(**fields)
            if found := [score for outcome in answer.outcomes for score in outcome.shadows]:
                return found


def num_scores(client: Client) -> float | None:
    return client.engine.metrics.registry.get_sample_value("paceline:shadow_scores_total")


def shadows(drafter: Drafter) -> list[drafting_pb2.SessionOpened]:
    return [opened for opened in drafter.opened if opened.shadow]


@pytest.mark.parametrize("sampling", [GREEDY, HOT])
async def test_a_score_is_what_the_drafter_would_have_made_of_the_text(
    start, monkeypatch, sampling: types_pb2.Sampling
) -> None:
    monkeypatch.setattr(Latency, "patience_s", PATIENT_S)  # how long is waited follows the machine's load otherwise
    client = await start()
    plain = await client.generate(max_tokens=6 * SEGMENT, speculation=OFF, sampling=sampling)
    drafter = Drafter(knows_in_part(plain.ids))
    await drafter.connect(client)
    engaged = await client.generate(
        max_tokens=6 * SEGMENT,
        segment_tokens=SEGMENT,
        sampling=sampling,
        speculation=types_pb2.Speculation(drafters=["d1"]),
    )
    begin = engaged.outcomes[0].tokens
    for outcome in engaged.outcomes[1:-1]:  # as it is engaged; the first begins and the last ends otherwise
        if outcome.wait_s < PATIENT_S:
            assert (outcome.tokens, outcome.steps, outcome.nodes) == worth(begin, SEGMENT)
            assert outcome.plain_s == pytest.approx(0.02 * outcome.tokens)
        begin += outcome.tokens

    seen = 0
    async with asyncio.timeout(DEADLINE_S):
        while seen < 3:
            drafter.opened.clear()
            for score in await scored(client, max_tokens=6 * SEGMENT, sampling=sampling):
                seen += score.draft_s < PATIENT_S
                assert_true(score)
    begins = {len(opened.tokens) - len(PROMPT) for opened in shadows(drafter)}
    assert begins <= set(range(0, 6 * SEGMENT, SEGMENT))  # of plain decoding, a step brings one token


def assert_true(score: generation_pb2.ShadowScore) -> None:
    """Of a segment of plain decoding, for one who knows in part."""
    assert (score.drafter_id, score.drafter_name) == ("d1", "test")
    assert score.verify_s == pytest.approx(0.02 * score.steps)
    assert score.plain_s == pytest.approx(0.02 * score.tokens)
    assert score.tokens >= SEGMENT
    if score.draft_s < PATIENT_S:
        assert 0.0 < score.wait_s <= score.draft_s + PATIENT_S  # the first answer is timed by habit
        if score.tokens > SEGMENT:  # the last step saw more of the text than the segment, and so all it would have
            possible = {worth(begin, SEGMENT) for begin in range(0, 5 * SEGMENT, SEGMENT)}
            assert (score.tokens, score.steps, score.nodes) in possible


@pytest.mark.parametrize("sampling", [GREEDY, HOT])
async def test_the_text_is_the_same_with_shadows_and_without(start, sampling: types_pb2.Sampling) -> None:
    client = await start()
    plain = await client.generate(max_tokens=96, speculation=OFF, sampling=sampling)
    drafters = [Drafter(knows_in_part(plain.ids)), Drafter(talks_garbage(3), drafter_id="d2", name="liar")]
    for drafter in drafters:
        await drafter.connect(client)
    found: set[str] = set()
    async with asyncio.timeout(DEADLINE_S):
        while found < {"d1", "d2"}:
            answer = await client.generate(
                max_tokens=96, segment_tokens=24, sampling=sampling, speculation=ALONE, tenant="a"
            )
            assert (answer.ids, answer.text) == (plain.ids, plain.text)
            found |= {score.drafter_id for outcome in answer.outcomes for score in outcome.shadows}
    assert not any(answer.sources)


async def test_a_liar_is_scored_by_what_comes_true(start) -> None:
    client = await start(drafting="auto")
    plain = await client.generate(max_tokens=4 * SEGMENT, speculation=OFF)

    def certain_of_nonsense(session_id: int, context: list[int]) -> list[drafting_pb2.DraftTree]:
        at = len(context) - len(PROMPT)
        follows = plain.ids[at] if at < len(plain.ids) else JUNK
        tree = chain(session_id, context, [(follows + 1) % JUNK] * 8, claim=0.0)
        tree.draft_us = 1
        return [tree]

    await Drafter(certain_of_nonsense).connect(client)
    for score in await scored(client, max_tokens=4 * SEGMENT):
        assert (score.steps, score.tokens) == (SEGMENT, SEGMENT)
        assert score.plain_s <= score.verify_s + score.wait_s


async def test_who_is_engaged_own_or_silent_is_not_scored_or_scored_as_plain(start) -> None:
    client = await start()
    quiet, own, busy = Drafter(silent), Drafter(silent, drafter_id="d2", own=True), Drafter(silent, drafter_id="d3")
    for drafter in (quiet, own, busy):
        await drafter.connect(client)
    wish = types_pb2.Speculation(drafters=["d3"], shadow=4)
    (score,) = await scored(client, speculation=wish, max_tokens=SEGMENT)
    assert (score.drafter_id, score.tokens, score.steps, score.nodes) == ("d1", SEGMENT, SEGMENT, 0)
    assert score.verify_s == pytest.approx(score.plain_s)
    assert score.wait_s == 0.0
    assert not own.opened
    assert not shadows(busy)


async def test_nothing_is_done_unless_somebody_asks(start) -> None:
    client = await start()
    drafter = Drafter(silent)
    await drafter.connect(client)
    for fields in ({"speculation": OFF, "segment_tokens": SEGMENT}, {"speculation": ALONE}):
        answer = await client.generate(max_tokens=3 * SEGMENT, **fields)
        assert not any(outcome.shadows for outcome in answer.outcomes)
    assert not drafter.opened
    code, error = await client.refusal(speculation=types_pb2.Speculation(shadow=17))
    assert (code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, Reason.OUT_OF_RANGE)
    assert error.field == "speculation.shadow"


async def test_without_a_share_nobody_is_scored(folder) -> None:
    async with running(folder, shadow_share=0.0) as client:
        drafter = Drafter(silent)
        await drafter.connect(client)
        answer = await client.generate(max_tokens=3 * SEGMENT, segment_tokens=SEGMENT, speculation=ALONE)
        assert not any(outcome.shadows for outcome in answer.outcomes)
        assert not drafter.opened


async def test_a_shadow_is_told_as_one_with_the_memory_of_its_tenant_only_to_those_who_know_what_that_means(
    start,
) -> None:
    client = await start()
    old = make_peer("test", "0")
    old.protocol_minor = 3
    drafters = {
        "new": Drafter(knows_in_part([]), drafter_id="new"),
        "old": Drafter(knows_in_part([]), drafter_id="old", peer=old),
    }
    for drafter in drafters.values():
        await drafter.connect(client)
    await client.generate(tenant="a", speculation=types_pb2.Speculation(drafters=["new"]))
    (engaged,) = drafters["new"].opened
    assert engaged.memory_key
    assert not engaged.shadow
    text = {"max_tokens": SEGMENT, "segment_tokens": SEGMENT, "speculation": ALONE}
    async with asyncio.timeout(DEADLINE_S):
        while not all(shadows(drafter) for drafter in drafters.values()):
            await client.generate(tenant="a", **text)
    assert {opened.memory_key for opened in shadows(drafters["new"])} == {engaged.memory_key}
    # What is left of that tenant's text may still be scored meanwhile, so the next is another's.
    async with asyncio.timeout(DEADLINE_S):
        while not {opened.memory_key for opened in shadows(drafters["new"])} - {engaged.memory_key}:
            await client.generate(tenant="b", no_store=True, **text)
    assert {opened.memory_key for opened in shadows(drafters["new"])} == {engaged.memory_key, b""}
    assert {opened.memory_key for opened in shadows(drafters["old"])} == {b""}


async def test_the_targets_best_tokens_come_with_a_shadow_as_with_a_session(start) -> None:
    client = await start()
    drafter = Drafter(knows_in_part([]), commit_top_k=2)
    await drafter.connect(client)
    await scored(client)
    plain = await client.generate(max_tokens=3 * SEGMENT, speculation=OFF)
    text = [*PROMPT, *plain.ids]
    commits = [commit for commit in drafter.commits if commit.length > len(PROMPT) + 1]
    # Of a later segment, what came before it is told first.
    assert {len(opened.tokens) for opened in shadows(drafter)} == {len(PROMPT)}
    for commit in commits:
        first = commit.length - len(commit.tokens)
        assert list(commit.top_k.tokens) == text[first - 1 : commit.length - 1]
        assert commit.top_k.k == 2
        assert list(commit.top_k.successors)[::2] == text[first : commit.length]  # greedy: the best is what came
        assert commit.step_us == 0


async def test_scores_are_for_the_tenant_whose_text_it_was(start) -> None:
    client = await start()
    await Drafter(knows_in_part([])).connect(client)
    fields: dict[str, Any] = {"max_tokens": SEGMENT, "segment_tokens": SEGMENT, "speculation": ALONE}
    await client.generate(tenant="a", **fields)
    book = client.verifier.state.loaded.shadows
    await eventually(lambda: book.take("a"))
    other = await client.generate(tenant="b", **fields)
    assert not any(outcome.shadows for outcome in other.outcomes)


async def test_a_drafter_that_dies_in_the_middle_has_no_score_and_does_no_harm(start) -> None:
    client = await start()
    plain = await client.generate(max_tokens=2 * SEGMENT, speculation=OFF)
    know = knows_in_part(plain.ids)
    answers = 0

    def dies(session_id: int, context: list[int]) -> list[drafting_pb2.DraftTree]:
        nonlocal answers
        answers += 1
        if answers == 3:
            mortal.outgoing.put_nowait(drafting_pb2.DrafterMessage(goodbye=drafting_pb2.Goodbye()))
            return []
        return know(session_id, context)

    mortal = Drafter(dies)
    await mortal.connect(client)
    first = await client.generate(max_tokens=2 * SEGMENT, segment_tokens=SEGMENT, speculation=ALONE)
    await eventually(lambda: "d1" not in client.verifier.state.hub.links)
    await Drafter(know, drafter_id="d2").connect(client)
    found = await scored(client, max_tokens=2 * SEGMENT)
    assert first.ids == plain.ids
    assert {score.drafter_id for score in found} == {"d2"}


async def test_a_drafter_that_gets_a_session_is_not_scored_any_more(start) -> None:
    client = await start()
    drafter = Drafter(silent)
    await drafter.connect(client)
    await client.generate(max_tokens=SEGMENT, segment_tokens=SEGMENT, speculation=ALONE)
    await eventually(lambda: shadows(drafter))  # and is waited for
    (shadow,) = shadows(drafter)
    busy = await client.begin(max_tokens=8, speculation=types_pb2.Speculation(drafters=["d1"])).started()
    await eventually(lambda: shadow.session_id not in drafter.sessions)
    await busy.rest()
    assert num_scores(client) == 0


async def test_scoring_stops_where_requests_queue(start) -> None:
    client = await start(max_sessions=1)
    model = GatedModel(client.engine)
    model.gate.set()
    answering = asyncio.Event()

    def answers_late(session_id: int, context: list[int]) -> list[drafting_pb2.DraftTree]:
        answering.set()
        return []

    drafter = Drafter(answers_late)
    await drafter.connect(client)
    await client.generate(max_tokens=SEGMENT, segment_tokens=SEGMENT, speculation=ALONE)
    await eventually(answering.is_set)
    (shadow,) = shadows(drafter)
    model.gate.clear()
    running_now = await client.begin(max_tokens=4, speculation=OFF).started()
    queued = await client.begin(max_tokens=4, speculation=OFF).started()
    await eventually(lambda: client.engine.num_queued == 1)
    tree = chain(shadow.session_id, drafter.sessions[shadow.session_id], [JUNK])
    drafter.outgoing.put_nowait(drafting_pb2.DrafterMessage(draft=tree))
    await eventually(lambda: shadow.session_id not in drafter.sessions)  # closed after one answer
    model.gate.set()
    await running_now.rest()
    await queued.rest()
    assert num_scores(client) == 0


async def test_there_is_time_for_scoring_only_while_no_step_waits_for_the_event_loop(start, monkeypatch) -> None:
    client = await start()
    model = GatedModel(client.engine)
    between, go_on = asyncio.Event(), asyncio.Event()

    async def over(*_args: Any) -> float:
        between.set()
        await go_on.wait()
        return 0.0

    assert await asyncio.wait_for(client.engine.aside(), DEADLINE_S) is None  # nobody runs
    monkeypatch.setattr(client.engine._wait, "over", over)
    call = await client.begin(max_tokens=4, speculation=OFF).started()
    await between.wait()
    aside = asyncio.create_task(client.engine.aside())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not aside.done()
    go_on.set()
    await asyncio.wait_for(aside, DEADLINE_S)
    assert model.waiting.is_set()  # the model is at work
    model.gate.set()
    await call.rest()
