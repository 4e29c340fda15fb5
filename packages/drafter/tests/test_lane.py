"""A model in its thread, seen from the event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence

import pytest
from fake_model import FakeModel, Plain, session_on

from paceline.drafter.calibration import Calibration
from paceline.drafter.lane import LaneStream, ModelLane
from paceline.drafter.memory import Memory
from paceline.drafter.model_session import ModelSession
from paceline.drafter.model_worker import ModelDraft, ModelWorker
from paceline.drafter.models.base import Logits, Rows
from paceline.drafter.opening import Opening
from paceline.drafter.pace import Pace
from paceline.drafter.session import Draft, Sessions, Terms
from paceline.drafter.strategies.base import Budget, Candidates, Commit
from paceline.wire.digest import digest_of, extend
from paceline.wire.errors import PacelineError, Reason

BUDGET = Budget(16, 8)
WAIT_S = 20.0


class GatedModel(FakeModel):
    """Passes wait until the gate is open, and say which thread they ran on."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.threads: set[str] = set()
        self.fails = False

    def score(self, batch: Sequence[Rows]) -> list[Logits]:
        self.gate.wait(WAIT_S)
        self.threads.add(threading.current_thread().name)
        if self.fails:
            raise MemoryError("no room")
        return super().score(batch)


class Studio:
    """A lane on a model, and what it delivered."""

    def __init__(self) -> None:
        self.model = GatedModel()
        growth = session_on(self.model, [1])._growing.growth
        worker = ModelWorker(self.model, growth, Calibration(), 10_000, False, time.perf_counter)
        self.lane = ModelLane("causal_lm", worker, self._session)
        self.drafts: asyncio.Queue[ModelDraft] = asyncio.Queue()

    def _session(self, kind: object, opening: Opening) -> ModelSession:
        if opening.tokens[0] == 39:
            raise PacelineError(Reason.TOKEN_OUT_OF_VOCABULARY, "no such token")
        return session_on(self.model, opening.tokens)

    def attach(self) -> LaneStream:
        return self.lane.attach(Plain([1]), Pace(), self.drafts.put_nowait)  # type: ignore[arg-type]

    async def draft(self) -> ModelDraft:
        return await asyncio.wait_for(self.drafts.get(), WAIT_S)


@pytest.fixture
async def studio() -> AsyncIterator[Studio]:
    studio = Studio()
    studio.lane.start()
    yield studio
    studio.model.gate.set()
    studio.lane.stop()


def opening(number: int, tokens: Sequence[int]) -> Opening:
    return Opening(number, tuple(tokens), digest_of(tokens))


async def test_drafts_come_to_the_loop_from_the_models_thread(studio: Studio):
    stream = studio.attach()
    stream.opened(opening(7, [1, 2]), BUDGET)
    draft = await studio.draft()
    assert draft.key == (stream.number, 7)
    assert draft.candidates.tokens == studio.model.greedy([1, 2], 6)
    stream.committed(Commit(7, (3,), 3, 0))
    assert (await studio.draft()).candidates.tokens == studio.model.greedy([1, 2, 3], 6)
    assert studio.model.threads == {"causal_lm"}


async def test_the_loop_does_not_wait_for_the_model(studio: Studio):
    studio.model.gate.clear()
    stream = studio.attach()
    stream.opened(opening(1, [1, 2]), BUDGET)
    for token in range(10):  # all while the first pass is under way
        stream.committed(Commit(1, (token,), 3 + token, 0))
    studio.model.gate.set()
    draft = await studio.draft()
    while draft.length < 12:
        draft = await studio.draft()
    assert draft.candidates.tokens == studio.model.greedy([1, 2, *range(10)], 6)


async def test_streams_do_not_hear_of_one_another(studio: Studio):
    ours, theirs = studio.attach(), studio.attach()
    ours.opened(opening(1, [1, 2]), BUDGET)
    theirs.opened(opening(1, [8, 9]), BUDGET)
    found = {draft.key: draft.candidates.tokens for draft in [await studio.draft(), await studio.draft()]}
    assert found == {
        (ours.number, 1): studio.model.greedy([1, 2], 6),
        (theirs.number, 1): studio.model.greedy([8, 9], 6),
    }
    ours.detach({1})
    ours.committed(Commit(1, (3,), 3, 0))
    theirs.committed(Commit(1, (3,), 3, 0))
    assert (await studio.draft()).key == (theirs.number, 1)
    assert studio.drafts.empty()


async def test_a_session_that_cannot_be_opened_is_given_up_alone(studio: Studio):
    stream = studio.attach()
    stream.opened(opening(1, [39]), BUDGET)
    stream.opened(opening(2, [1, 2]), BUDGET)
    gone = await studio.draft()
    assert gone.gone
    assert gone.key[1] == 1
    assert (await studio.draft()).key[1] == 2


async def test_a_model_that_fails_leaves_the_thread_alive(studio: Studio):
    stream = studio.attach()
    studio.model.fails = True
    stream.opened(opening(1, [1, 2]), BUDGET)
    assert (await studio.draft()).gone
    studio.model.fails = False
    stream.opened(opening(2, [1, 2]), BUDGET)
    assert len((await studio.draft()).candidates)


# Together with the strategies that need no model.


def sessions_with(studio: Studio, strategies: Sequence[str]) -> Sessions:
    terms = Terms("v", "m", "hash", vocab_size=40, max_tree_nodes=64, max_tree_depth=16, commit_top_k=0)
    memory = Memory(strategies, 1000)
    sessions = Sessions(terms, memory, [Calibration() for _ in strategies], 32, time.perf_counter)
    lane = studio.lane.attach(
        Plain([1]),  # type: ignore[arg-type]
        sessions.pace,
        lambda draft: sessions.delivered(0, draft),
    )
    sessions.engage({0: lane})
    return sessions


async def next_draft(sessions: Sessions) -> Draft:
    async with asyncio.timeout(WAIT_S):
        while (draft := sessions.next_draft()) is None:
            await asyncio.sleep(0.001)
    return draft


async def test_what_is_quick_goes_first_and_the_last_is_final(studio: Studio):
    studio.model.gate.clear()
    sessions = sessions_with(studio, ["suffix"])
    text = [1, 2, 3, 1, 2]
    sessions.opened(opening(1, text))
    quick = await next_draft(sessions)
    assert quick.tree.tokens[0] == 3
    assert set(quick.tree.strategy) == {0}
    assert not quick.final
    assert sessions.next_draft() is None
    studio.model.gate.set()
    thought = await next_draft(sessions)
    assert thought.final
    assert set(thought.tree.strategy) == {1}
    assert thought.anchor == quick.anchor
    assert list(thought.tree.tokens) == studio.model.greedy(text, 6)


async def test_a_model_alone_says_nothing_before_it_has_thought(studio: Studio):
    studio.model.gate.clear()
    sessions = sessions_with(studio, [])
    sessions.opened(opening(1, [1, 2]))
    assert sessions.next_draft() is None
    studio.model.gate.set()
    assert (await next_draft(sessions)).final


@pytest.mark.parametrize("strategies", [[], ["suffix"]])
async def test_a_model_that_is_faster_than_the_loop_has_the_last_word(studio: Studio, strategies: list[str]):
    sessions = sessions_with(studio, strategies)
    text = [1, 2, 3, 1, 2]
    sessions.opened(opening(1, text))
    async with asyncio.timeout(WAIT_S):
        while not sessions._ready:
            await asyncio.sleep(0.001)
    drafts = []
    while (draft := sessions.next_draft()) is not None:
        drafts.append(draft)
    assert [draft.final for draft in drafts] == [False] * len(strategies) + [True]
    assert list(drafts[-1].tree.tokens) == studio.model.greedy(text, 6)


async def test_a_draft_that_comes_late_is_sent_for_the_text_that_it_continues(studio: Studio):
    studio.model.gate.clear()
    sessions = sessions_with(studio, [])
    sessions.opened(opening(1, [1, 2]))
    assert sessions.next_draft() is None
    sessions.committed(Commit(1, (3,), 3, extend(digest_of([1, 2]), [3])))
    # As if the model had been in its last pass when the commit came.
    sessions.delivered(0, ModelDraft((0, 1), 2, Candidates([3, 9], [-1, 0], [0.9, 0.9], [0, 1])))
    late = sessions.next_draft()
    assert late is not None
    assert (late.anchor.length, late.anchor.digest) == (2, digest_of([1, 2]))
    assert late.tree.tokens == (3, 9)
    studio.model.gate.set()
    draft = await next_draft(sessions)
    assert draft.anchor.length == 3
    assert draft.final


async def test_when_a_model_gives_up_the_quick_draft_is_final(studio: Studio):
    studio.model.fails = True
    sessions = sessions_with(studio, ["suffix"])
    sessions.opened(opening(1, [1, 2, 3, 1, 2]))
    assert not (await next_draft(sessions)).final
    last = await next_draft(sessions)
    assert last.final
    assert not len(last.tree)
    sessions.committed(Commit(1, (3,), 6, extend(digest_of([1, 2, 3, 1, 2]), [3])))
    assert (await next_draft(sessions)).final
