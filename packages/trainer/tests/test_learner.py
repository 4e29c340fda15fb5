"""The learner beside a real store: lessons in, better revisions out, worse ones nowhere."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from byte_vocabularies import byte_level, vocabulary
from lessons_of_text import lessons_of, sums
from recorded_spans import RecordedSpans
from trainer_client import serving

from paceline.trainer.learning.chunked import chunked_loss
from paceline.trainer.models.decoder import Decoder, DecoderShape
from paceline.trainer.models.graph import decoder_card
from paceline.trainer.models.revision import write_revision
from paceline.trainer.online import refit as module
from paceline.trainer.online.gate import Gate
from paceline.trainer.online.learner import Learner, Parts
from paceline.trainer.online.lessons import Lesson, TargetIdentity
from paceline.trainer.online.schedule.base import Situation
from paceline.trainer.online.settings import RefitSettings
from paceline.trainer.online.store import Store
from paceline.trainer.online.student import open_student
from paceline.trainer.online.window import Window
from paceline.trainer.publishing import send_folder
from paceline.v1 import trainer_pb2, trainer_pb2_grpc, verifier_pb2
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.tracing import NO_SPANS, Spans

TARGET = vocabulary(400)
WORDS = byte_level(290)
IDENTITY = TargetIdentity("m", "h" * 64, TARGET.size)
LINE = "tiny"


class Idle:
    """A verifier with nothing to do."""

    def __init__(self) -> None:
        self.active = 0
        self.weights_hash = ""

    async def GetModel(self, request: object, timeout: float) -> verifier_pb2.GetModelResponse:
        return verifier_pb2.GetModelResponse(
            active_sessions=self.active, max_sessions=4, weights_hash=self.weights_hash
        )


class Whenever:
    """A schedule that wants so many new tokens."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def due(self, situation: Situation) -> bool:
        return situation.new_tokens >= self.tokens


@dataclass
class Bench:
    """A store, what a learner for it needs, and the revision it begins with."""

    stub: trainer_pb2_grpc.TrainerStub
    folder: Path
    first: trainer_pb2.Revision
    verifier: Idle

    def learner(
        self, *, tokens: int = 200, gate: Gate | None = None, spans: Spans = NO_SPANS, **changes: object
    ) -> Learner:
        settings = RefitSettings.model_validate(
            {
                "line": LINE,
                "work": self.folder / "work",
                "poll_s": 0.02,
                "learning_rate": 0.01,
                "passes": 8,
                "batch_tokens": 256,
                **changes,
            }
        )
        parts = Parts(
            store=Store(self.stub, LINE, IDENTITY, self.folder / "work" / "revisions"),
            verifier=self.verifier,  # type: ignore[arg-type]
            open_student=lambda folder: open_student(folder, IDENTITY, TARGET),
            schedule=Whenever(tokens),
            gate=gate or Gate(least_lessons=2, least_tokens=16),
            spans=spans,
        )
        return Learner(settings, parts, Window(IDENTITY, 1 << 20))

    async def teach(self, texts: Sequence[str], seed: int = 0, weights_hash: str = "") -> None:
        lessons = [message_of(lesson, weights_hash) for lesson in lessons_of(TARGET, texts, seed)]
        await self.stub.Submit(trainer_pb2.SubmitRequest(lessons=lessons))

    async def revisions(self) -> list[trainer_pb2.Revision]:
        found = await self.stub.ListRevisions(trainer_pb2.ListRevisionsRequest(drafter=LINE))
        return list(found.revisions)


def message_of(lesson: Lesson, weights_hash: str = "") -> trainer_pb2.Lesson:
    return trainer_pb2.Lesson(
        weights_hash=weights_hash,
        lesson_id=lesson.lesson_id,
        model=IDENTITY.model,
        tokenizer_hash=IDENTITY.tokenizer_hash,
        context=lesson.context,
        tokens=lesson.tokens,
        accepted=lesson.accepted.tolist(),
        top_k=lesson.top_ids.shape[1],
        top_k_ids=lesson.top_ids.reshape(-1).tolist(),
        top_k_log_probs=lesson.top_log_probs.reshape(-1).tolist(),
    )


def write_first(folder: Path, tokenizer_hash: str = IDENTITY.tokenizer_hash) -> trainer_pb2.RevisionManifest:
    shape = DecoderShape(
        vocab_size=vocabulary(290).size,
        width=32,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        intermediate=48,
        max_length=512,
    )
    manifest = trainer_pb2.RevisionManifest(drafter=LINE, model="m", tokenizer_hash=tokenizer_hash, command="made")
    card = decoder_card(shape, quantization="int8")
    return write_revision(folder, Decoder(shape), card, WORDS, manifest, weights="bfloat16").manifest


@asynccontextmanager
async def bench(folder: Path) -> AsyncIterator[Bench]:
    torch.set_num_threads(1)
    manifest = write_first(folder / "first")
    async with serving(folder / "store") as (stub, _):
        first = await send_folder(stub, folder / "first", manifest)
        yield Bench(stub, folder, first, Idle())


@asynccontextmanager
async def running(learner: Learner) -> AsyncIterator[None]:
    task = asyncio.create_task(learner.run())
    try:
        yield
    finally:
        learner.stop()
        await asyncio.wait_for(task, 60.0)


async def until(holds: Callable[[], object], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.01)


async def test_lessons_become_better_revisions_one_after_the_other(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        spans = RecordedSpans()
        learner = made.learner(spans=spans)
        async with running(learner):
            await made.teach(sums(80))
            await until(lambda: learner.counters.published == 1)
            await made.teach(sums(80, seed=1), seed=1)
            await until(lambda: learner.counters.refits == 2 and not (tmp_path / "work/job/job.json").exists())
        newest, *older = await made.revisions()
        parents = [newest.manifest.parent, *(item.manifest.parent for item in older)]
        assert parents[-1] == ""
        assert parents[:-1] == [item.revision_id for item in older]
        assert older[-1].revision_id == made.first.revision_id
        manifest = older[-2].manifest if learner.counters.published == 2 else newest.manifest
        assert manifest.metrics["acceptance"] > manifest.metrics["acceptance_before"] + 0.1
        assert (manifest.model, manifest.tokenizer_hash) == ("m", IDENTITY.tokenizer_hash)
        assert len(manifest.data) == 64
        again = made.learner()
        assert again.counters == learner.counters
        first, *_ = spans.named("refit")
        assert (first.attributes["paceline.line"], first.attributes["paceline.passes"], first.error) == (LINE, True, "")
        learning = [span for span in spans.named("learn") if span.parent == first.traceparent]
        assert [span.error for span in learning] == [""]
        assert learner.verdict is not None
        assert learner.yielding.num_steps > 0


async def test_what_is_no_better_is_not_published(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        learner = made.learner(learning_rate=1e-9)
        async with running(learner):
            await made.teach(sums(80))
            await until(lambda: learner.counters.refused == 1)
        assert [item.revision_id for item in await made.revisions()] == [made.first.revision_id]
        assert learner.counters.published == 0


async def test_no_refit_begins_before_one_can_be_judged(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        held_out = [lesson for lesson in lessons_of(TARGET, sums(80), 0) if lesson.is_held_out]
        learner = made.learner(gate=Gate(least_lessons=len(held_out) + 1, least_tokens=16))
        async with running(learner):
            await made.teach(sums(80))
            await until(lambda: len(learner.window) == 80)
            await asyncio.sleep(0.2)  # ten looks
            assert learner.counters.refits == 0
            await made.teach(sums(80, seed=1), seed=1)
            await until(lambda: learner.counters.refits == 1)


async def test_a_target_with_other_weights_is_learned_from_anew(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        made.verifier.weights_hash = "old"
        learner = made.learner(tokens=1 << 20)
        async with running(learner):
            await made.teach(sums(40), weights_hash="old")
            await until(lambda: len(learner.window) == 40)
            made.verifier.weights_hash = "new"
            await until(lambda: len(learner.window) == 0)
            await made.teach(sums(10, seed=1), seed=1, weights_hash="new")
            await made.teach(sums(10, seed=2), seed=2, weights_hash="old")
            await until(lambda: len(learner.window) == 10 and learner.window.refused["UNKNOWN_MODEL"] >= 50)


async def test_a_loss_that_diverges_is_given_up_and_the_store_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = itertools.count()

    def diverging(*arguments: object) -> torch.Tensor:
        loss = chunked_loss(*arguments)  # type: ignore[arg-type]
        return loss if next(losses) < 10 else loss * float("nan")

    monkeypatch.setattr(module, "chunked_loss", diverging)
    async with bench(tmp_path) as made:
        learner = made.learner()
        async with running(learner):
            await made.teach(sums(40))
            await until(lambda: learner.counters.diverged == 1)
        assert [item.revision_id for item in await made.revisions()] == [made.first.revision_id]
        assert (await made.stub.GetReplay(trainer_pb2.GetReplayRequest())).lessons == 40
        assert not (tmp_path / "work/job/job.json").exists()


async def test_after_a_withdrawal_it_goes_on_from_what_is_in_use(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        learner = made.learner()
        async with running(learner):
            await made.teach(sums(80))
            await until(lambda: learner.counters.published == 1)
            bad = (await made.revisions())[0].revision_id
            await made.stub.WithdrawRevision(trainer_pb2.WithdrawRevisionRequest(revision_id=bad, reason="worse"))
            await made.teach(sums(80, seed=1), seed=1)
            await until(lambda: learner.counters.published == 2)
        newest = (await made.revisions())[0]
        assert newest.manifest.parent == made.first.revision_id


async def test_it_waits_while_serving_has_its_hands_full(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        made.verifier.active = 4
        learner = made.learner(pause_above=0.5)
        async with running(learner):
            await until(lambda: learner.yielding.paused)
            await made.teach(sums(80))
            await until(lambda: (tmp_path / "work/job/job.json").exists())
            await asyncio.sleep(0.3)
            assert learner.counters.published + learner.counters.refused == 0
            made.verifier.active = 1
            await until(lambda: learner.counters.published == 1)


async def test_a_refit_that_was_stopped_goes_on_at_the_next_start(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        made.verifier.active = 4
        stopped = made.learner(pause_above=0.5)
        async with running(stopped):
            await until(lambda: stopped.yielding.paused)
            await made.teach(sums(80))
            await until(lambda: (tmp_path / "work/job/job.json").exists())
        made.verifier.active = 0
        learner = made.learner(tokens=1 << 30)
        async with running(learner):
            await until(lambda: learner.counters.published == 1)
        assert learner.counters.refits == 1


def test_a_revision_for_another_tokenizer_is_no_student(tmp_path: Path) -> None:
    write_first(tmp_path / "first", tokenizer_hash="other")
    with pytest.raises(PacelineError) as refused:
        open_student(tmp_path / "first", IDENTITY, TARGET)
    assert (refused.value.reason, refused.value.field) == (Reason.VOCABULARY_MISMATCH, "tokenizer_hash")
