"""One refit: what is learned, from which lessons, and how the result does on those that were held out."""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from paceline.trainer.learning.chunked import chunked_loss, read
from paceline.trainer.learning.objectives import OBJECTIVES
from paceline.trainer.learning.selection import SELECTIONS
from paceline.trainer.learning.selection.base import Evidence
from paceline.trainer.models.decoder import Decoder
from paceline.trainer.online.gate import Scores
from paceline.trainer.online.jobs import Job
from paceline.trainer.online.lora import adapt, merge
from paceline.trainer.online.samples import Batch, Sample, collate
from paceline.trainer.online.settings import RefitSettings
from paceline.trainer.online.student import Student
from paceline.trainer.online.yielding import Yielding
from paceline.trainer.training.loop import LoopSettings, Loss, train

SCORED_TOKENS = 4096  # in one pass
EVERYTHING = "all"
LEARNING_RATES = {"muon": 0.02, "adamw": 2e-3}


@dataclass(frozen=True, slots=True)
class Lessons:
    """What a refit learns from: names of an objective and of selections, whose weights multiply; and the samples."""

    samples: Sequence[Sample]
    objective: str = "hybrid"
    selections: tuple[str, ...] = (EVERYTHING,)
    batch_tokens: int = 2048
    seed: int = 0


class RefitTask:
    """A `training.loop.Task`.

    Args:
        module: the student.
        lessons: what it learns.
        before_step: called before each step; may wait, and may raise to stop.
    """

    def __init__(self, module: Decoder, lessons: Lessons, before_step: Callable[[], None] = lambda: None) -> None:
        if not lessons.samples:
            raise ValueError("no samples to learn from")
        self.name = f"refit {lessons.objective} {'+'.join(lessons.selections)} {len(lessons.samples)} {lessons.seed}"
        self._module, self._lessons = module, lessons
        self._before_step = before_step
        self._sizes = np.array([len(sample.ids) for sample in lessons.samples])

    def batch(self, step: int) -> Sequence[Sample]:
        """Passes over the samples, each in an order of its own, cut into batches of about `batch_tokens`."""
        self._before_step()
        lessons = self._lessons
        per_pass = max(1, round(self._sizes.sum() / lessons.batch_tokens))
        number, part = divmod(step, per_pass)
        order = np.random.default_rng((lessons.seed, number)).permutation(len(self._sizes))
        return [lessons.samples[index] for index in np.array_split(order, per_pass)[part]]

    def loss(self, examples: Sequence[Sample]) -> Loss:
        """The chosen objective over the chosen positions."""
        batch = collate(examples, self._module.shape.vocab_size, self._module.norm.weight.device)
        hidden = self._module(batch.ids)[batch.rows, batch.columns]
        head = self._module.head_weight
        losses = chunked_loss(hidden, head, batch.targets, OBJECTIVES[self._lessons.objective])
        weights = self._weights(batch, hidden.detach(), head.detach())
        # Where nothing was chosen nothing is learned; the weight only keeps the loop from dividing by 0.
        return Loss((losses * weights).sum(), float(weights.sum()) or float(len(weights)))

    def _weights(self, batch: Batch, hidden: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
        if self._lessons.selections == (EVERYTHING,):
            return torch.ones(len(hidden), device=hidden.device)
        readings = read(hidden, head, batch.targets)
        evidence = Evidence(
            accepted=batch.accepted,
            right=readings.best == batch.targets.tokens,
            entropy=readings.entropy,
            divergence=readings.divergence.clamp(0.0, 1.0),
            starts=batch.starts,
        )
        weights = torch.ones(len(hidden), device=hidden.device)
        for name in self._lessons.selections:
            weights = weights * SELECTIONS[name](evidence)
        return weights


@torch.no_grad()
def score(module: Decoder, samples: Sequence[Sample]) -> Scores:
    """How many of each lesson's tokens the student would have said: those that are its likeliest, be it the target's
    token or its own first part of it."""
    right: list[int] = []
    for part in _parts(samples):
        batch = collate(part, module.shape.vocab_size, module.norm.weight.device)
        hidden = module(batch.ids)[batch.rows, batch.columns]
        best = read(hidden, module.head_weight, batch.targets).best
        said = best == batch.targets.tokens
        found = said.long().cumsum(0)
        ends = [*batch.starts[1:].tolist(), len(said)]
        totals = [int(found[end - 1]) for end in ends]
        right += [after - before for before, after in zip([0, *totals], totals, strict=False)]
    return Scores(np.array(right, np.int64), np.array([len(sample) for sample in samples], np.int64))


def _parts(samples: Sequence[Sample]) -> list[list[Sample]]:
    parts: list[list[Sample]] = []
    size = 0
    for sample in samples:
        if not parts or size + len(sample.ids) > SCORED_TOKENS:
            parts.append([])
            size = 0
        parts[-1].append(sample)
        size += len(sample.ids)
    return parts


@dataclass(frozen=True, slots=True)
class Refitted:
    """What came of a refit.

    Attributes:
        module: the new weights.
        before, after: scores on the held-out samples.
        seconds: of computing.
        data: hex SHA-256 of the samples that were learned from.
    """

    module: Decoder
    before: Scores
    after: Scores
    seconds: float
    data: str


class Refit:
    """One refit, from its job to the scores of the result; `run` is for a thread of its own.

    Args:
        settings: how.
        student: who; stays as it is.
        job: what; samples: of it, the held-out ones last.
        state: folder for the loop's state. If there is one of this job it goes on from there.
        yielding: asked before each step.
    """

    def __init__(
        self,
        settings: RefitSettings,
        student: Student,
        job: Job,
        samples: Sequence[Sample],
        state: Path,
        yielding: Yielding,
    ) -> None:
        self._settings, self._student, self._job = settings, student, job
        self._learned, self._held_out = samples[: job.num_learned], samples[job.num_learned :]
        self._state, self._yielding = state, yielding

    def run(self) -> Refitted:
        """Raises Stopped, and PacelineError if the loss keeps diverging."""
        settings, job = self._settings, self._job
        started = time.process_time()
        module = copy.deepcopy(self._student.module)
        if settings.lora_rank:
            adapt(module, settings.lora_rank, job.seed)
        lessons = Lessons(
            self._learned, settings.objective, tuple(settings.selection.split(",")), settings.batch_tokens, job.seed
        )
        loop = LoopSettings(
            num_steps=job.num_steps,
            learning_rate=settings.learning_rate or LEARNING_RATES[settings.rule],
            rule=settings.rule,
            warmup_steps=min(20, job.num_steps // 5),
            final_share=0.1,
            checkpoint_every=50,
        )
        train(module, RefitTask(module, lessons, self._yielding.wait), loop, self._state)
        if settings.lora_rank:
            merge(module)
        self._yielding.wait()
        before, after = (score(each, self._held_out) for each in (self._student.module, module))
        return Refitted(module, before, after, time.process_time() - started, digest(self._learned))


def digest(samples: Sequence[Sample]) -> str:
    """Hex SHA-256 of what is learned from."""
    whole = hashlib.sha256()
    for sample in samples:
        whole.update(len(sample.ids).to_bytes(8, "little"))
        whole.update(sample.ids.astype("<i8").tobytes())
        whole.update(sample.top_ids.astype("<i8").tobytes())
        whole.update(sample.top_log_probs.astype("<f4").tobytes())
    return whole.hexdigest()
