"""Keeps one line of revisions good: reads lessons, refits when it pays, publishes what is better.

The event loop talks to the store and to the verifier; a thread of its own does the learning, and asks between its steps
whether it may go on. What it does at any moment can be killed: the store has whole revisions only, a refit begins with
its samples on disk, and what is done at a start follows from what lies there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import grpc.aio
import structlog

from paceline.trainer.durable import storage_error
from paceline.trainer.online.counters import load_counters
from paceline.trainer.online.gate import Gate, Verdict
from paceline.trainer.online.jobs import Job, JobFolder
from paceline.trainer.online.refit import Refit, Refitted
from paceline.trainer.online.samples import Sample
from paceline.trainer.online.schedule.base import Schedule, Situation
from paceline.trainer.online.settings import RefitSettings
from paceline.trainer.online.store import Store
from paceline.trainer.online.student import Student
from paceline.trainer.online.window import Window
from paceline.trainer.online.yielding import Stopped, Yielding, busyness
from paceline.v1 import trainer_pb2, verifier_pb2, verifier_pb2_grpc
from paceline.wire.errors import PacelineError
from paceline.wire.tracing import NO_SPANS, Span, Spans, Value
from paceline.wire.waiting import happens

log = structlog.get_logger()

COUNTERS = "counters.json"
CALL_S = 5.0


@dataclass(frozen=True, slots=True)
class Parts:
    """What a learner works with.

    Attributes:
        store: revisions and lessons.
        verifier: whose load is looked at.
        open_student: makes a student of a revision's folder; slow.
        schedule, gate: when, and whether.
        clock: seconds.
        spans: that tell of each refit.
    """

    store: Store
    verifier: verifier_pb2_grpc.VerifierStub
    open_student: Callable[[Path], Student]
    schedule: Schedule
    gate: Gate
    clock: Callable[[], float] = time.monotonic
    spans: Spans = NO_SPANS


class Learner:
    """Use: `await learner.run()` until `learner.stop()`.

    Args:
        settings: how.
        parts: with what.
        window: for lessons.

    Attributes:
        refitting: a refit is under way.
        turned_s: when it last looked for lessons and revisions, and could; num_failures: how often it could not.
        verdict: of the gate, on the last refit that was judged.
    """

    def __init__(self, settings: RefitSettings, parts: Parts, window: Window) -> None:
        folder = settings.work.expanduser()
        self._settings, self._parts, self.window = settings, parts, window
        self._jobs = JobFolder(folder / "job")
        self._counters_path = folder / COUNTERS
        self.counters = load_counters(self._counters_path)
        self.yielding = Yielding()
        self._stopping = asyncio.Event()
        self._student: Student | None = None
        self._refitted_s = self.turned_s = parts.clock()
        self._waits = False  # for a revision to begin with, and said so
        self.refitting = False
        self.num_failures = 0
        self.verdict: Verdict | None = None
        self._weights_hash = window.target.weights_hash  # that the verifier told last

    def stop(self) -> None:
        """Ends `run` after the step that is being computed. A refit goes on from there at the next start."""
        self._stopping.set()
        self.yielding.stop()

    async def run(self) -> None:
        """Until `stop`."""
        looking = asyncio.create_task(self._look_at_load())
        try:
            while not self._stopping.is_set():
                try:
                    await self._turn()
                    self.turned_s = self._parts.clock()
                except (PacelineError, grpc.aio.AioRpcError) as error:
                    why = error.message if isinstance(error, PacelineError) else f"{error.code().name}"
                    self.num_failures += 1
                    log.warning("refitting waits", why=why)
                except OSError as error:
                    self.num_failures += 1
                    log.error("refitting waits", why=storage_error(error).message)
                await happens(self._stopping, self._settings.poll_s)
        except Stopped:
            log.info("stopped in the middle of a refit; it goes on at the next start")
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)

    async def _turn(self) -> None:
        student = await self._current()
        if student is None:
            return
        await self._follow_target()
        await self._take_lessons()
        unfinished = await asyncio.to_thread(self._jobs.unfinished)
        if unfinished is not None and unfinished[0].parent == student.revision_id:
            log.info("going on with a refit", number=unfinished[0].number)
            await self._refit(student, *unfinished)
        elif self._parts.schedule.due(self._situation()) and self._can_be_judged():
            job, samples = await asyncio.to_thread(self._new_job, student)
            if job.num_learned:
                await asyncio.to_thread(self._jobs.begin, job, samples)
                await self._refit(student, job, samples)

    async def _current(self) -> Student | None:
        """The newest revision of the line that is in use: another process may have published or withdrawn one."""
        newest = await self._parts.store.newest()
        if newest is None:
            if self._student is None and not self._waits:
                log.warning("the line has no revision to begin with; publish one", line=self._settings.line)
                self._waits = True
            return self._student
        if self._student is None or newest.revision_id != self._student.revision_id:
            if self._student is not None:
                log.info("going on from another revision", revision=newest.revision_id[:16])
            folder = await self._parts.store.fetch(newest)
            self._student = await asyncio.to_thread(self._parts.open_student, folder)
        return self._student

    async def _follow_target(self) -> None:
        """Lessons and an unfinished refit are worth nothing once the target has other weights."""
        if self._weights_hash != self.window.target.weights_hash:
            log.warning(
                "the target's weights changed; what was learned from the old ones is forgotten",
                weights_hash=self._weights_hash[:16],
            )
            self.window.follow(self._weights_hash)
            await asyncio.to_thread(self._jobs.clear)

    async def _take_lessons(self) -> None:
        before = self.window.new_tokens
        self.window.add(await self._parts.store.lessons_since(self.window.newest_id, self.window.max_tokens))
        if self.window.new_tokens != before:
            log.debug("lessons", new_tokens=self.window.new_tokens, refused=dict(self.window.refused))

    def _can_be_judged(self) -> bool:
        held_out = self.window.lessons(held_out=True)
        return self._parts.gate.can_judge(len(held_out), sum(len(lesson.tokens) for lesson in held_out))

    def _situation(self) -> Situation:
        window, counters, now_s = self.window, self.counters, self._parts.clock()
        return Situation(
            now_s=now_s,
            refitted_s=self._refitted_s,
            new_tokens=window.new_tokens,
            tokens_per_s=window.new_tokens / max(1e-3, now_s - self._refitted_s),
            acceptance=window.acceptance,
            best_acceptance=window.best_acceptance,
            refit_s=counters.refit_s,
            gain_per_token=counters.gain_per_token,
            drifted=window.drift.drifted,
        )

    def _new_job(self, student: Student) -> tuple[Job, list[Sample]]:
        learned = student.samples(self.window.lessons(held_out=False))
        held_out = student.samples(self.window.lessons(held_out=True))
        settings, number = self._settings, self.counters.refits + 1
        size = sum(len(sample.ids) for sample in learned)
        job = Job(
            number=number,
            parent=student.revision_id,
            num_learned=len(learned),
            num_steps=max(1, round(settings.passes * max(1, round(size / settings.batch_tokens)))),
            seed=(settings.seed + number) % (1 << 32),
            learned_tokens=self.window.new_tokens,
        )
        return job, [*learned, *held_out]

    async def _refit(self, student: Student, job: Job, samples: list[Sample]) -> None:
        told: dict[str, Value] = {
            "paceline.line": self._settings.line,
            "paceline.refit": job.number,
            "paceline.parent": job.parent,
            "paceline.samples": job.num_learned,
            "paceline.steps": job.num_steps,
        }
        span = self._parts.spans.begin("refit", attributes=told)
        self.refitting = True
        try:
            await self._refitted(student, job, samples, span)
        except (PacelineError, grpc.aio.AioRpcError, OSError) as error:
            span.end(error.reason.value if isinstance(error, PacelineError) else type(error).__name__)
            raise
        finally:
            self.refitting = False
            span.end()

    async def _refitted(self, student: Student, job: Job, samples: list[Sample], span: Span) -> None:
        self.counters = replace(self.counters, refits=job.number)
        log.info("refit begins", number=job.number, samples=job.num_learned, steps=job.num_steps)
        refit = Refit(self._settings, student, job, samples, self._jobs.state, self.yielding)
        learning = span.child("learn")
        try:
            refitted = await asyncio.to_thread(refit.run)
        except PacelineError as error:
            log.error("refit given up", number=job.number, why=error.message)
            span.end(error.reason.value)
            self.counters = replace(self.counters, diverged=self.counters.diverged + 1)
        else:
            learning.end()
            verdict = self._judged(refitted, job, span)
            if self._weights_hash != self.window.target.weights_hash:
                log.warning("refit given up", number=job.number, why="the target's weights changed meanwhile")
            elif verdict.passes:
                await self._publish(student, job, refitted, verdict, span)
            self.counters = self.counters.judged(verdict, refitted.seconds, job.learned_tokens)
        finally:
            learning.end()
        await asyncio.to_thread(self._end_job)

    def _judged(self, refitted: Refitted, job: Job, span: Span) -> Verdict:
        verdict = self.verdict = self._parts.gate.judge(refitted.before, refitted.after)
        log.info("refit judged", number=job.number, passes=verdict.passes, why=verdict.why)
        told: dict[str, Value] = {
            "paceline.passes": verdict.passes,
            "paceline.acceptance_before": verdict.before,
            "paceline.acceptance": verdict.after,
            "paceline.processor_s": refitted.seconds,
        }
        span.set(told)
        return verdict

    async def _publish(self, student: Student, job: Job, refitted: Refitted, verdict: Verdict, span: Span) -> None:
        metrics = {
            "acceptance_before": verdict.before,
            "acceptance": verdict.after,
            "acceptance_error": verdict.error,
            "refit": float(job.number),
            "learned_tokens": float(job.learned_tokens),
        }
        settings = self._settings
        manifest = trainer_pb2.RevisionManifest(
            drafter=settings.line,
            parent=student.revision_id,
            command=f"paceline-trainer refit --line={settings.line} --objective={settings.objective} "
            f"--selection={settings.selection} --rule={settings.rule} --seed={settings.seed}",
            metrics=metrics,
            data=refitted.data,
        )
        with self._parts.store.new_folder() as folder:
            await asyncio.to_thread(student.write, folder, refitted.module, manifest, settings.quantization)
            revision = await self._parts.store.publish(folder, span)
        log.info("revision published", revision=revision.revision_id[:16], acceptance=round(verdict.after, 4))

    def _end_job(self) -> None:
        self.counters.save(self._counters_path)
        self._jobs.clear()
        self.window.refitted()
        self._refitted_s = self._parts.clock()

    async def _look_at_load(self) -> None:
        """Pauses learning while the verifier has its hands full. A verifier that doesn't answer holds nothing up."""
        while True:
            try:
                model = await self._parts.verifier.GetModel(verifier_pb2.GetModelRequest(), timeout=CALL_S)
                busy = busyness(model) > self._settings.pause_above
                self._weights_hash = model.weights_hash or self._weights_hash
            except grpc.aio.AioRpcError:
                busy = False
            if busy != self.yielding.paused and not self._stopping.is_set():
                log.info("learning pauses" if busy else "learning goes on")
                (self.yielding.pause if busy else self.yielding.go_on)()
            await asyncio.sleep(self._settings.poll_s)
