"""Another model takes over while sessions go on: nothing is lost, nothing is for a wrong text, nobody is closed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import pytest
from fake_model import FakeModel, Plain
from models_at_work import FakeVocabulary, SlowModel, at_work, lane_of

from paceline.drafter.drafting import DraftModel
from paceline.drafter.memory import Memory
from paceline.drafter.model_worker import ModelDraft
from paceline.drafter.opening import Opening
from paceline.drafter.pace import Pace
from paceline.drafter.session import Sessions, Terms
from paceline.drafter.strategies.base import Budget, Commit
from paceline.wire.digest import digest_of, extend

BUDGET = Budget(16, 8)
WAIT_S = 20.0
TERMS = Terms("v", "m", "hash", vocab_size=40, max_tree_nodes=64, max_tree_depth=16, commit_top_k=0)


@pytest.fixture
async def first() -> AsyncIterator[tuple[SlowModel, DraftModel]]:
    model = SlowModel(seed=0)
    draft_model = lane_of(at_work(model))
    draft_model.lane.start()
    yield model, draft_model
    model.gate.set()
    draft_model.lane.stop()


def opening(number: int, tokens: Sequence[int]) -> Opening:
    return Opening(number, tuple(tokens), digest_of(tokens))


class Served:
    """One verifier's sessions on a lane; commits what a model would say, and checks each draft."""

    def __init__(self, draft_model: DraftModel, models: list[FakeModel], count: int) -> None:
        self.models = models
        self.texts = {number: [number % 40, 2, 3] for number in range(count)}
        self.num_drafts = 0
        pace = Pace()
        self.sessions = Sessions(TERMS, Memory([], 0), [], 32, time.perf_counter, pace)
        lane = draft_model.lane.attach(Plain([1]), pace, self.delivered)  # type: ignore[arg-type]
        self.sessions.engage({0: lane})
        self.raw: list[ModelDraft] = []

    def delivered(self, draft: ModelDraft) -> None:
        assert not draft.gone
        self.raw.append(draft)
        self.sessions.delivered(0, draft)

    def open(self) -> None:
        for number, text in self.texts.items():
            self.sessions.opened(opening(number, text))

    async def round(self) -> None:
        """Waits for every session's draft, checks it, commits."""
        waiting = set(self.texts)
        async with asyncio.timeout(WAIT_S):
            while waiting:
                draft = self.sessions.next_draft()
                if draft is None:
                    await asyncio.sleep(0.001)
                    continue
                number = draft.anchor.session_id
                text = self.texts[number]
                assert (draft.anchor.length, draft.anchor.digest) == (len(text), digest_of(text))
                expected = [model.greedy(text, len(draft.tree)) for model in self.models]
                assert list(draft.tree.tokens) in expected, "a draft is one model's, for the text as it is"
                assert draft.final
                assert number in waiting, "one draft for each text"
                waiting.discard(number)
                self.num_drafts += 1
        for number, text in self.texts.items():
            tokens = self.models[0].greedy(text, 2)
            text += tokens
            digest = extend(digest_of(text[:-2]), tokens)
            self.sessions.committed(Commit(number, tuple(tokens), len(text), digest, step_s=0.01))


async def test_twenty_swaps_under_load_lose_nothing(first: tuple[SlowModel, DraftModel]) -> None:
    model, draft_model = first
    models: list[FakeModel] = [model]
    served = Served(draft_model, models, count=6)
    served.open()
    swaps = asyncio.create_task(swap_often(draft_model, served, 20))
    rounds = 0
    while not swaps.done() or rounds < 10:
        await served.round()
        rounds += 1
        if swaps.done():
            swaps.result()
    await served.round()  # the last swap may have come in the middle of a round that the model before it had drafted
    rounds += 1
    assert len(models) == 21
    assert served.num_drafts == 6 * rounds
    assert {len(work) for work in [served.sessions]} == {6}, "every session is still there"
    last = served.raw[-1]
    text = served.texts[last.key[1]][: last.length]
    assert last.candidates.tokens == models[-1].greedy(text, len(last.candidates)), "the last model is at work"


async def swap_often(draft_model: DraftModel, served: Served, count: int) -> None:
    """Every seven drafts, so that some sessions have had theirs and some have not, never the same ones."""
    for seed in range(1, count + 1):
        while served.num_drafts < 7 * seed:
            await asyncio.sleep(0)
        served.models.append(SlowModel(seed))
        await draft_model.swap(at_work(served.models[-1], revision=str(seed)))
        assert draft_model.revision == str(seed)


async def test_what_has_had_its_draft_gets_no_second_one_and_what_waits_gets_it_from_the_new_model(
    first: tuple[SlowModel, DraftModel],
) -> None:
    model, draft_model = first
    drafts: asyncio.Queue[ModelDraft] = asyncio.Queue()
    stream = draft_model.lane.attach(Plain([1]), Pace(), drafts.put_nowait)  # type: ignore[arg-type]
    stream.opened(opening(1, [1, 2]), BUDGET)
    assert (await asyncio.wait_for(drafts.get(), WAIT_S)).key[1] == 1
    model.gate.clear()
    stream.opened(opening(2, [3, 4]), BUDGET)
    other = SlowModel(seed=5)
    swapping = asyncio.create_task(draft_model.swap(at_work(other)))
    await asyncio.sleep(0.01)
    model.gate.set()
    await swapping
    draft = await asyncio.wait_for(drafts.get(), WAIT_S)
    assert draft.key[1] == 2
    expected = [one.greedy([3, 4], len(draft.candidates)) for one in (model, other)]
    assert draft.candidates.tokens in expected
    stream.committed(Commit(1, (9,), 3, 0))
    draft = await asyncio.wait_for(drafts.get(), WAIT_S)
    assert (draft.key[1], draft.length) == (1, 3)
    assert draft.candidates.tokens == other.greedy([1, 2, 9], len(draft.candidates))
    stream.closed(2)
    stream.detach({1})
    await draft_model.swap(at_work(SlowModel(seed=6)))
    assert drafts.empty(), "sessions that ended are not opened again"


class Kind:
    """What a bridge was made from; `slow`: something else happens while it is made."""

    def __init__(self, vocabulary: FakeVocabulary) -> None:
        self.vocabulary = vocabulary

    def begin(self, tokens: Sequence[int]) -> Plain:
        return Plain(tokens)


def terms_of(tokenizer_hash: str) -> Terms:
    return Terms("v", "m", tokenizer_hash, vocab_size=40, max_tree_nodes=64, max_tree_depth=8, commit_top_k=0)


async def test_bridges_stay_with_their_vocabulary_and_are_made_anew_for_another(
    first: tuple[SlowModel, DraftModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, draft_model = first
    made: list[str] = []

    def choose(target: object, vocabulary: FakeVocabulary, name: str) -> Kind:
        made.append(vocabulary.content_hash)
        return Kind(vocabulary)

    monkeypatch.setattr("paceline.drafter.drafting.choose", choose)
    way = draft_model.kind(terms_of("t"), FakeVocabulary("target"))  # type: ignore[arg-type]
    before = way.kind  # type: ignore[attr-defined]
    await draft_model.swap(at_work(SlowModel(1)))
    assert way.kind is before, "with what it has learned"  # type: ignore[attr-defined]
    await draft_model.swap(at_work(SlowModel(2), content_hash="other"))
    assert draft_model.kind(terms_of("t"), FakeVocabulary("target")) is way, "streams keep what they have"  # type: ignore[arg-type]
    assert way.kind.vocabulary.content_hash == "other"  # type: ignore[attr-defined]
    assert made == ["same", "other"]


async def test_a_vocabulary_that_joins_no_target_in_use_leaves_all_as_it_was(
    first: tuple[SlowModel, DraftModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    from paceline.wire.errors import PacelineError, Reason

    _, draft_model = first

    def choose(target: object, vocabulary: FakeVocabulary, name: str) -> Kind:
        if vocabulary.content_hash == "bad":
            raise PacelineError(Reason.VOCABULARY_MISMATCH, "no way")
        return Kind(vocabulary)

    monkeypatch.setattr("paceline.drafter.drafting.choose", choose)
    way = draft_model.kind(terms_of("t"), FakeVocabulary("target"))  # type: ignore[arg-type]
    with pytest.raises(PacelineError, match="no way"):
        await draft_model.swap(at_work(SlowModel(1), content_hash="bad", revision="bad"))
    assert (draft_model.vocabulary.content_hash, draft_model.revision) == ("same", "")
    assert way.kind.vocabulary.content_hash == "same"  # type: ignore[attr-defined]


async def test_a_target_that_comes_while_a_bridge_is_made_gets_one_to_the_new_vocabulary(
    first: tuple[SlowModel, DraftModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, draft_model = first
    late: list[object] = []

    def choose(target: object, vocabulary: FakeVocabulary, name: str) -> Kind:
        if vocabulary.content_hash == "other" and not late:
            late.append(None)
            late.append(draft_model.kind(terms_of("late"), FakeVocabulary("l")))  # type: ignore[arg-type]
        return Kind(vocabulary)

    monkeypatch.setattr("paceline.drafter.drafting.choose", choose)
    draft_model.kind(terms_of("t"), FakeVocabulary("target"))  # type: ignore[arg-type]
    await draft_model.swap(at_work(SlowModel(1), content_hash="other"))
    for name in ("t", "late"):
        kind = draft_model.kind(terms_of(name), FakeVocabulary("x")).kind  # type: ignore[arg-type, attr-defined]
        assert kind.vocabulary.content_hash == "other"
