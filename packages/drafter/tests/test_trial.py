"""A revision beside the one at work, and what becomes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from fake_model import FakeModel, Plain
from fake_trainer import make_folder
from models_at_work import FailingModel, at_work, lane_of

from paceline.drafter.drafting import DraftModel, ModelAtWork
from paceline.drafter.identity import Identity
from paceline.drafter.opening import Opening
from paceline.drafter.pace import Pace
from paceline.drafter.revisions import trial as trial_module
from paceline.drafter.revisions.follow import Proposal, Unfit
from paceline.drafter.revisions.swap import Swapper
from paceline.drafter.revisions.trial import Trial, Verdict, on_trial
from paceline.drafter.strategies.base import Budget
from paceline.wire.digest import digest_of
from paceline.wire.revision_folder import open_revision

ME = Identity("drafter-1", "onnx_lm", ("suffix", "onnx_lm"), 3, revision="old")
REVISION = "0123456789abcdef" * 4
DEADLINE_S = 20.0


class FakePresence:
    """Somebody at routers who waits for the word of one."""

    def __init__(self, identity: Identity, models: Sequence[DraftModel], verdict: asyncio.Future[Verdict]) -> None:
        self.identity = identity
        self.models = models
        self.verdict = verdict
        self.is_open = False

    def open(self) -> None:
        self.is_open = True

    async def close(self) -> None:
        self.is_open = False


class Stage:
    """A trial of one model beside another."""

    def __init__(self, model: FakeModel) -> None:
        self.presences: list[FakePresence] = []
        self.own = lane_of(at_work(FakeModel()))
        self.contender = lane_of(at_work(model))
        self.task = asyncio.create_task(
            Trial([self.own], self._presence).run(ME, REVISION, {self.contender.lane.strategy: self.contender})
        )

    def _presence(
        self, identity: Identity, models: Sequence[DraftModel], verdict: asyncio.Future[Verdict]
    ) -> FakePresence:
        self.presences.append(FakePresence(identity, models, verdict))
        return self.presences[-1]

    async def begun(self) -> FakePresence:
        async with asyncio.timeout(DEADLINE_S):
            while not self.presences:
                await asyncio.sleep(0.001)
        return self.presences[0]


def test_who_is_on_trial_is_told_of_requests_that_name_it_alone() -> None:
    other = on_trial(ME, REVISION)
    assert other.drafter_id == "drafter-1~trial-01234567"
    assert (other.name, other.own, other.trial_of) == ("onnx_lm~trial-01234567", True, "drafter-1")
    assert (other.revision, other.strategies, other.commit_top_k) == (REVISION, ME.strategies, 3)
    long = on_trial(Identity("d" * 300, "n", (), 0), REVISION)
    assert len(long.drafter_id) == 200
    assert long.drafter_id.endswith("~trial-01234567")


@pytest.mark.parametrize("outcome", [Verdict.OUTCOME_BETTER, Verdict.OUTCOME_WORSE])
async def test_the_routers_word_ends_the_trial(outcome: Verdict.Outcome) -> None:
    stage = Stage(FakeModel(seed=1))
    presence = await stage.begun()
    assert presence.is_open
    assert presence.identity == on_trial(ME, REVISION)
    assert list(presence.models) == [stage.contender]
    verdict = Verdict(outcome=outcome, mean_reward=0.9, mean_reward_before=1.1, segments=41, segments_before=200)
    presence.verdict.set_result(verdict)
    async with asyncio.timeout(DEADLINE_S):
        if outcome == Verdict.OUTCOME_BETTER:
            await stage.task
        else:
            with pytest.raises(Unfit, match=r"0\.900 .* 41 segments, 1\.100 over 200"):
                await stage.task
    assert not presence.is_open
    assert not stage.contender.lane._thread.is_alive(), "its model may be taken over"


async def test_a_model_that_fails_on_trial_needs_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_module, "MODEL_CHECK_S", 0.01)
    stage = Stage(FailingModel())
    presence = await stage.begun()
    stream = stage.contender.lane.attach(Plain([1]), Pace(), lambda _draft: None)  # type: ignore[arg-type]
    stream.opened(Opening(1, (1, 2), digest_of([1, 2])), Budget(16, 8))
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(Unfit, match="it failed on trial"):
            await stage.task
    assert not presence.is_open


async def test_a_trial_that_is_cancelled_leaves_nobody_behind() -> None:
    stage = Stage(FakeModel(seed=1))
    presence = await stage.begun()
    stage.task.cancel()
    await asyncio.gather(stage.task, return_exceptions=True)
    assert not presence.is_open
    assert not stage.contender.lane._thread.is_alive()


async def test_a_swapper_tries_what_is_new_and_not_what_comes_back(tmp_path: Path) -> None:
    model = lane_of(at_work(FakeModel()))
    model.lane.start()
    tried: list[str] = []
    unfit: list[str] = []

    async def attempt(revision: str, works: object) -> None:
        tried.append(revision)
        if revision in unfit:
            raise Unfit("slower")

    def load(strategy: str, folder: Path) -> ModelAtWork:
        return at_work(FakeModel(seed=1), revision=open_revision(folder).revision_id)

    revisions = [open_revision(make_folder(tmp_path / str(n), graph=b"%d" % n)) for n in range(3)]
    names = [revision.revision_id for revision in revisions]
    swapper = Swapper({"onnx_lm": model}, load, None, {"causal_lm"}, lambda: (), attempt)
    try:
        await swapper.take(Proposal(revisions[0]))
        unfit.append(names[1])
        with pytest.raises(Unfit):
            await swapper.take(Proposal(revisions[1]))
        assert model.revision == names[0]
        await swapper.take(Proposal(revisions[2], returns=True))
        assert (model.revision, tried) == (names[2], names[:2])
    finally:
        model.lane.stop()
