"""Fake models with a worker and a lane."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from fake_model import FakeModel, session_on

from paceline.drafter.calibration import Calibration
from paceline.drafter.drafting import DraftModel, ModelAtWork
from paceline.drafter.lane import ModelLane
from paceline.drafter.model_session import ModelSession
from paceline.drafter.model_worker import ModelWorker
from paceline.drafter.models.base import Logits, Rows
from paceline.drafter.opening import Opening

WAIT_S = 20.0


class SlowModel(FakeModel):
    """Takes a moment, so that events come in the middle of drafts; its passes wait while `gate` is closed."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed=seed)
        self.gate = threading.Event()
        self.gate.set()

    def score(self, batch: Sequence[Rows]) -> list[Logits]:
        self.gate.wait(WAIT_S)
        time.sleep(0.0005)
        return super().score(batch)


class FailingModel(FakeModel):
    def score(self, batch: Sequence[Rows]) -> list[Logits]:
        raise MemoryError("no room")


class FakeVocabulary:
    size = 40

    def __init__(self, content_hash: str) -> None:
        self.content_hash = content_hash


def at_work(model: FakeModel, content_hash: str = "same", revision: str = "") -> ModelAtWork:
    growth = session_on(model, [1])._growing.growth
    worker = ModelWorker(model, growth, Calibration(), 10_000, True, time.perf_counter)

    def new_session(kind: object, opening: Opening) -> ModelSession:
        return session_on(model, opening.tokens)

    return ModelAtWork(FakeVocabulary(content_hash), worker, new_session, revision)  # type: ignore[arg-type]


def lane_of(work: ModelAtWork) -> DraftModel:
    return DraftModel(work.vocabulary, ModelLane("onnx_lm", work.worker, work.new_session), "auto")
