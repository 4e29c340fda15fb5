"""The step loop: admits sessions, waits for drafts where that pays, plans, runs, commits.

All state belongs to the event loop's thread. The forward pass runs in a thread of its own and gets and gives plain
values, so drafts are grafted and tokens streamed while the model computes.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from typing import Protocol

import structlog

from paceline.verifier.calibration import Calibration
from paceline.verifier.draft_wait import DraftWait
from paceline.verifier.feature_memory import FeatureMemory
from paceline.verifier.hub import DrafterHub
from paceline.verifier.metrics import Metrics
from paceline.verifier.model.batch import SessionPlan, SessionResult, StepPlan, StepResult
from paceline.verifier.model.blocks import BLOCK_TOKENS, BlockPool
from paceline.verifier.model.features import FeatureSource
from paceline.verifier.model_thread import ModelThread
from paceline.verifier.outlook import Outlook
from paceline.verifier.pacing import Pacing
from paceline.verifier.planning import grant, prefill_rows
from paceline.verifier.request_metrics import ABORT, ERROR
from paceline.verifier.session import Session
from paceline.verifier.shadow_book import ShadowBook
from paceline.verifier.shadow_replay import Costs
from paceline.verifier.step_times import StepTimes, TimedStep
from paceline.verifier.steps import StepFigures
from paceline.verifier.trie import Candidate
from paceline.verifier.waiting import Promise
from paceline.verifier.work import Work
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.tree import ROOT

log = structlog.get_logger()

MAX_LOGGED = 8  # requests that a line of the log names
STREAM_DELAY_S = 0.001  # after a step's start: the model's thread, not the streams, gets the interpreter first


class Model(Protocol):
    """What the engine needs of a `paceline.verifier.model.runner.Runner`."""

    pool: BlockPool
    max_session_rows: int
    feature_source: FeatureSource | None

    def step(self, plan: StepPlan) -> StepResult: ...

    def trim(self) -> None: ...


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """max_sessions run at once, max_queue wait; max_nodes candidates a session and step, max_step_nodes over all;
    feature_memory_bytes for hidden states of remembered prefixes."""

    max_sessions: int = 8
    max_queue: int = 64
    max_nodes: int = 32
    max_step_nodes: int = 64
    feature_memory_bytes: int = 0


class LessonSink(Protocol):
    """Who is told of every step's outcome (`paceline.verifier.lessons.Lessons`)."""

    top_k: int

    @property
    def active(self) -> bool: ...

    def observe(
        self, session: Session, result: SessionResult, taken: tuple[int, ...], candidates: list[Candidate]
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class _Planned:
    """A session's part of the step in flight, with the candidates behind its rows."""

    session: Session
    num_chain: int
    candidates: list[Candidate]


class Engine:
    """Runs sessions on a model.

    Args:
        model: runs steps.
        times: of its steps.
        hub: connected drafters.
        limits: how much at once.
        lessons: who gathers lessons, if anybody does.
        metrics: what is counted and timed.
        pacing: when drafting rests; by default where it does not pay.
        shadows: where text is written down on which drafters that weren't engaged are to be scored, if they are.
    """

    def __init__(
        self,
        model: Model,
        times: StepTimes,
        hub: DrafterHub,
        limits: EngineLimits,
        lessons: LessonSink | None = None,
        metrics: Metrics | None = None,
        pacing: Pacing | None = None,
        shadows: ShadowBook | None = None,
    ) -> None:
        self.times = times
        self.calibration = Calibration()
        self.pacing = pacing or Pacing(times.cost.seconds)
        self.metrics = metrics or Metrics()
        self.work = Work()
        self._model = model
        self._hub = hub
        self._limits = limits
        self._lessons = lessons
        self._shadows = shadows
        self._features = FeatureMemory(limits.feature_memory_bytes)
        self._running: dict[int, Session] = {}  # in the order of their admission
        self._queue: deque[Session] = deque()
        self._work = asyncio.Event()
        self._outlook = Outlook(self.calibration, times, self.pacing, limits.max_nodes, limits.max_step_nodes)
        self._wait = DraftWait(hub, self._outlook)
        self._thread = ModelThread()
        self._unstreamed: list[Session] = []  # that have events which wait for the next step's start
        self._task: asyncio.Task[None] | None = None
        self._aside = asyncio.Event()  # the model computes, or there is nothing to do: nothing waits for the event loop
        self._aside.set()
        self._waited_s = 0.0  # for drafts, before the step that runs or comes next
        self._ended_s: float | None = None  # when the step before ended, unless there was nothing to do since
        pool = model.pool
        self.metrics.show(
            lambda: len(self._running),
            lambda: len(self._queue),
            lambda: pool.num_held / max(1, pool.num_blocks),
            lambda: pool.num_remembered / max(1, pool.num_blocks),
        )

    @property
    def feature_source(self) -> FeatureSource | None:
        """What hidden states drafters can have; None if there are none."""
        return self._model.feature_source

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_queued(self) -> int:
        return len(self._queue)

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="engine")

    async def stop(self) -> None:
        """Ends the loop; sessions that still run fail."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        gone = PacelineError(
            Reason.DRAINING, "the verifier is shutting down; repeat the request with what was committed"
        )
        for session in (*self._running.values(), *self._queue):
            self.metrics.requests.ended(session, time.monotonic(), ERROR)
            session.fail(gone)
        await asyncio.to_thread(self._thread.close)  # a step may be in flight

    def submit(self, session: Session) -> None:
        """Takes a session on. Raises OVERLOADED if the queue is full."""
        session.arrived_s = time.monotonic()
        if session.finish is not None:
            self.metrics.requests.ended(session, session.arrived_s)
            session.emit_finished()
            return
        free = self._limits.max_sessions - len(self._running)  # as many leave the queue at once
        if len(self._queue) >= self._limits.max_queue + free:
            self.metrics.requests.turned_away(session)
            raise PacelineError(
                Reason.OVERLOADED,
                f"{len(self._queue)} requests are waiting, the limit; try again later or add verifiers",
                field="queue",
                value=len(self._queue),
                limit=self._limits.max_queue,
                retry_after_s=1.0,
            )
        self._queue.append(session)
        self._work.set()
        self._wait.stir()

    def cancel(self, session: Session) -> None:
        """Frees the session's slot at once (a step in flight finishes without it)."""
        self.metrics.requests.ended(session, time.monotonic(), ABORT)
        session.cancelled = True
        if session in self._queue:
            self._queue.remove(session)
        self._leave(session)
        self._work.set()
        self._wait.stir()

    def sessions(self) -> list[Session]:
        """Those that run."""
        return list(self._running.values())

    def drafted(self, session: Session) -> None:
        """A drafter answered: a step that waits for it may start."""
        if session.session_id in self._running:
            self._wait.stir()

    async def aside(self) -> None:
        """Returns when no step waits for the event loop: one is being computed, or nobody runs."""
        await self._aside.wait()

    def shadow_costs(self, num_sessions: int) -> Costs:
        """What steps cost now, for a session among so many that are alike."""
        limits = self._limits
        max_nodes = min(limits.max_nodes, limits.max_step_nodes // num_sessions)
        times = self.times
        return Costs(times.seconds, times.cost.seconds, num_sessions, max_nodes, times.least_value)

    def promise(self, session: Session) -> Promise:
        """What its candidates, as they are now, promise the session's next step, if it were alone in it."""
        return self._outlook.of_session(session)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._admit()
            if not self._running:
                self._stream()
                self._model.trim()
                self._ended_s = None
                self._work.clear()
                self._aside.set()
                await self._work.wait()
                self._aside.clear()
                continue
            self._waited_s = await self._wait.over(self._running.values, self._can_admit)
            for session in self._running.values():
                session.total.wait_s += self._waited_s / len(self._running)
            planned = self._plan()
            if not planned:
                self._stream()
                continue
            plan = StepPlan(tuple(self._session_plan(part) for part in planned), self._hub.feature_layers)
            try:
                step = self._thread.call(self._model.step, plan)
                loop.call_later(STREAM_DELAY_S, self._begun, step)
                try:
                    result = await step
                finally:
                    self._aside.clear()
                taken = self._commit(planned, plan, result)
                await asyncio.sleep(0)  # drafters hear of it first; what else there is to do goes on while they draft
                self._account(planned, plan, result, taken)
            except Exception:
                self.metrics.failures.inc()
                requests = [part.session.request.request_id for part in planned[:MAX_LOGGED]]
                log.exception("step failed", sessions=len(planned), rows=plan.num_rows, request_ids=requests)
                error = PacelineError(Reason.INTERNAL, "its step failed; the verifier's log has the cause")
                for part in planned:
                    self._fail(part.session, error)

    def _begun(self, step: asyncio.Future[StepResult]) -> None:
        """The model is at work on a step, so there is time for what isn't the step's."""
        self._stream()
        if not step.done():
            self._aside.set()

    def _stream(self) -> None:
        """Lets the streams have what the step before brought: beside the next step, not between the two."""
        for session in self._unstreamed:
            session.release_events()
        self._unstreamed.clear()

    def _observe(self, planned: list[_Planned], plan: StepPlan, result: StepResult) -> None:
        """Times of a step."""
        reading = [rows for part, rows in zip(planned, plan.sessions, strict=True) if part.session.reading]
        num_decoding = len(planned) - len(reading)
        between_s = self._between_s(result)
        served = [part for part in planned if self._hub.serving(part.session)]
        self.times.observe(TimedStep(plan.num_rows, len(planned), len(reading), result.seconds, between_s))
        gap_s = None
        if between_s is not None:
            gap_s = max(0.0, between_s - self._waited_s)
            if num_decoding and len(served) == len(planned):
                num_tokens = sum(len(outcome.tokens) for outcome in result.sessions)
                first_tokens = sum(rows.completes for rows in reading)  # of sessions that are through with their prompt
                prompt_rows = sum(rows.num_rows for rows in reading)
                done_s = self.times.plain_seconds(num_decoding, num_tokens - first_tokens, prompt_rows)
                self.pacing.observe(len(planned), done_s, between_s + result.seconds)
                self._hub.hold(not self.pacing.drafting)
        self._ended_s = result.started_s + result.seconds
        self.metrics.stepped(result.seconds, plan.num_rows, gap_s, self._waited_s)

    def _between_s(self, result: StepResult) -> float | None:
        """From the step before to this one's beginning; None if there was nothing to do meanwhile."""
        return None if self._ended_s is None else max(0.0, result.started_s - self._ended_s)

    def _can_admit(self) -> bool:
        return bool(self._queue) and len(self._running) < self._limits.max_sessions

    def _admit(self) -> None:
        while self._can_admit():
            session = self._queue[0]
            pool = self._model.pool
            session.slot = pool.open(session.request.tenant, session.tokens)
            # Its own tokens, and a block for each session to grow into: else somebody would soon have to give way.
            spare = len(self._running) * BLOCK_TOKENS
            enough = pool.num_available * BLOCK_TOKENS >= session.length + 1 - session.slot.capacity + spare
            if not (enough and pool.reserve(session.slot, session.length + 1)):
                self._give_up_slot(session)
                return
            self._queue.popleft()
            if not session.admitted_s:
                self._admitted(session)
            session.reading = True
            self._running[session.session_id] = session
            self._hub.engage(session)
            if (known := self._features.recall(session.slot.keys)) is not None:
                for link in self._hub.serving(session):
                    link.read(session, known)

    def _admitted(self, session: Session) -> None:
        """For the first time."""
        assert session.slot is not None
        session.admitted_s = time.monotonic()
        self.metrics.requests.queue.observe(session.admitted_s - session.arrived_s)
        self.metrics.prompt_tokens.inc(session.length)
        self.work.prompt_tokens += session.length
        self.metrics.cached_tokens.inc(session.slot.length)

    def _give_up_slot(self, session: Session) -> None:
        if session.slot is not None:
            self._model.pool.close(session.slot)
            self._features.forget(session.session_id)
            session.slot = None

    def _leave(self, session: Session) -> None:
        """Ends the session's part in steps; one that is in flight finishes without it."""
        if self._running.pop(session.session_id, None) is not None:
            self._hub.close(session)
        self._give_up_slot(session)

    def _preempt(self, session: Session) -> None:
        """Sends the session back to the head of the queue; most of what it had in the cache will still be there."""
        log.info(
            "preempted for want of cache",
            session=session.session_id,
            request_id=session.request.request_id,
            tokens=session.length,
        )
        self.metrics.preemptions.inc()
        self._leave(session)
        self._queue.appendleft(session)

    # Planning

    def _plan(self) -> list[_Planned]:
        chains = self._chains()
        offered: dict[int, list[Candidate]] = {}
        for session_id, chain in chains.items():
            session = self._running[session_id]
            if session.slot is not None and session.slot.length + chain == session.length:
                room = self._room(session, chain)
                offered[session_id] = self._outlook.candidates(session, room)
        max_nodes = self._limits.max_step_nodes
        if any(chain > 1 for chain in chains.values()):
            # A prompt's rows make further ones look cheap; but those who are decoding wait for all of them.
            max_nodes = min(max_nodes, self.times.usual_nodes)
        granted = grant(offered, sum(chains.values()), self.times.seconds, max_nodes)
        return [
            _Planned(self._running[session_id], chain, offered.get(session_id, [])[: granted.get(session_id, 0)])
            for session_id, chain in chains.items()
        ]

    def _chains(self) -> dict[int, int]:
        """How many committed tokens each session's rows begin with; sessions that get none this time are left out.

        Those that decode go first; prompts share what is left, in the order of admission. A session that finds no room
        in the cache displaces the youngest.
        """
        decoding = sum(1 for session in self._running.values() if session.decoding)
        waiting_rows = decoding + self.times.usual_nodes if decoding else 0
        prefill_left = prefill_rows(waiting_rows, self.times.usual_s(decoding), self.times.reading_seconds)
        chains: dict[int, int] = {}
        for session_id, session in list(self._running.items()):
            if session.slot is None:  # preempted a moment ago
                continue
            missing = session.length - session.slot.length
            chain = 1 if missing == 1 else min(missing, prefill_left, self._model.max_session_rows)
            if chain == 0 or not self._make_room(session, session.slot.length + chain):
                continue
            prefill_left -= chain if missing > 1 else 0
            chains[session_id] = chain
        return {session_id: chain for session_id, chain in chains.items() if session_id in self._running}

    def _make_room(self, session: Session, num_tokens: int) -> bool:
        """Room in the cache for so many of the session's tokens; False if that cost it its own place."""
        assert session.slot is not None
        while not self._model.pool.reserve(session.slot, num_tokens):
            youngest = next(reversed(self._running.values()))
            self._preempt(youngest)
            if youngest is session:
                return False
        return True

    def _room(self, session: Session, chain: int) -> int:
        """Most candidates that the session's rows and its place in the cache have room for."""
        slot = session.slot
        assert slot is not None
        wanted = min(self._limits.max_nodes, self._model.max_session_rows - chain)
        if not self._model.pool.reserve(slot, slot.length + chain + wanted):
            wanted = min(wanted, slot.capacity - slot.length - chain)
        return wanted

    def _session_plan(self, part: _Planned) -> SessionPlan:
        infos = [link.info for link in self._hub.serving(part.session)]
        wanted = [info.commit_top_k for info in infos]
        window = max((info.features.window for info in infos), default=0)
        teaches = False
        if self._lessons is not None and self._lessons.active and part.session.request.teaches:
            wanted.append(self._lessons.top_k)
            teaches = True
        if self._shadows is not None:
            wanted.append(self._shadows.top_k(part.session))
        return part.session.plan(part.candidates, part.num_chain, max(wanted, default=0), teaches, window)

    # Committing

    def _commit(self, planned: list[_Planned], plan: StepPlan, result: StepResult) -> list[tuple[int, ...]]:
        """What the next step and the drafters need. Returns the tokens that each session took."""
        taken: list[tuple[int, ...]] = []
        step_s = result.seconds + (self._between_s(result) or 0.0)
        figures = self._figures(planned, plan, result)
        for part, rows, outcome in zip(planned, plan.sessions, result.sessions, strict=True):
            session = part.session
            taken.append(())
            if session.cancelled or session.slot is None:
                continue
            session.slot.length = rows.slot.length
            if outcome.error is not None:
                self._fail(session, outcome.error)
            elif outcome.tokens:
                taken[-1] = session.commit(outcome, part.candidates, figures)
                after = (rows.chain[-1], *rows.tree_tokens)
                for link in self._hub.serving(session):
                    link.commit(session, taken[-1], after, outcome.top, step_s, outcome.features)
            elif outcome.features is not None:
                for link in self._hub.serving(session):
                    link.read(session, outcome.features)
            if session.slot is not None and not session.request.no_store:
                self._model.pool.remember(session.slot, session.tokens)
                if outcome.features is not None:
                    self._features.add(session.session_id, outcome.features, session.slot.keys)
        return taken

    def _figures(self, planned: list[_Planned], plan: StepPlan, result: StepResult) -> StepFigures | None:
        """What is told of the step to those who ask; None if nobody does."""
        if all(part.session.request.steps is None for part in planned):
            return None
        num_decoding = sum(1 for outcome in result.sessions if outcome.tokens)
        plain_step_s = self.times.cost.seconds(max(1, num_decoding))
        return StepFigures(result.seconds, self._waited_s, plan.num_rows, plain_step_s)

    def _account(
        self, planned: list[_Planned], plan: StepPlan, result: StepResult, taken: list[tuple[int, ...]]
    ) -> None:
        """What the step cost and taught; sessions that are finished leave."""
        self._observe(planned, plan, result)
        num_decoding = sum(1 for tokens in taken if tokens)
        plain_s = self.times.cost.seconds(num_decoding) / num_decoding if num_decoding else 0.0
        now = time.monotonic()
        for part, rows, outcome, tokens in zip(planned, plan.sessions, result.sessions, taken, strict=True):
            session = part.session
            if session.cancelled or session.slot is None:
                continue
            share_s = result.seconds * rows.num_rows / plan.num_rows
            reading = session.reading  # however few of the prompt's tokens were left for this step
            session.reading = reading and not tokens
            if reading:
                session.total.prefill_s += share_s
            else:
                session.total.verify_s += share_s
                session.total.steps += 1
                self.metrics.session_steps.inc()
                self.work.session_steps += 1
            if not tokens:
                continue
            self._learn(part, outcome)
            self.metrics.generation_tokens.inc(len(tokens))
            self.work.generated_tokens += len(tokens)
            self.metrics.requests.output(session, now)
            if self._lessons is not None and rows.want_log_probs:
                self._lessons.observe(session, outcome, tokens, part.candidates)
            session.total.elapsed_s = now - session.admitted_s
            session.total.plain_s += 0.0 if reading else plain_s * len(tokens)
            if self._shadows is not None:
                self._shadows.observe(session, outcome, tokens)
            if session.settle() and self._shadows is not None:
                engaged = {link.info.drafter_id for link in self._hub.serving(session)}
                self._shadows.ended(session, len(self._running), engaged)
            self._unstreamed.append(session)
            if session.finish is not None:
                self.metrics.requests.ended(session, now)
                self._leave(session)

    def _learn(self, part: _Planned, outcome: SessionResult) -> None:
        """What the step says about its candidates: those whose parent was picked were right or wrong."""
        total = part.session.total
        total.nodes += len(part.candidates)
        self.metrics.drafts.drafts.inc(bool(part.candidates))
        self.metrics.drafts.depths.num_candidates += len(part.candidates)
        accepted = set(outcome.accepted)
        proposed: dict[str, int] = {}
        right: dict[str, int] = {}
        names = {link.info.drafter_id: link.info.name for link in self._hub.serving(part.session)}
        positions: list[int] = []
        for index, candidate in enumerate(part.candidates):
            sources = candidate.node.proposals
            positions.append(0 if candidate.parent == ROOT else positions[candidate.parent] + 1)
            for source in sources:
                total.credit(source).proposed += 1
                proposed[source.strategy] = proposed.get(source.strategy, 0) + 1
            if candidate.parent == ROOT or candidate.parent in accepted:
                self.calibration.observe(candidate.node, index in accepted)
                proposers = [(names[of.drafter_id], of.strategy) for of in sources if of.drafter_id in names]
                self.metrics.drafts.depths.count(positions[index], index in accepted, proposers)
            if index in accepted:
                for source in sources:
                    right[source.strategy] = right.get(source.strategy, 0) + 1
        for strategy, count in proposed.items():
            self.metrics.drafted(strategy, count, right.get(strategy, 0))
        self._count(part.candidates, accepted, names)

    def _count(self, candidates: list[Candidate], accepted: set[int], names: dict[str, str]) -> None:
        """The same for what is announced: by drafter's name, as far as drafters are still there."""
        proposed: dict[str, int] = {}
        right: dict[str, int] = {}
        for index, candidate in enumerate(candidates):
            proposers = {names[of.drafter_id] for of in candidate.node.proposals if of.drafter_id in names}
            for name in proposers:
                proposed[name] = proposed.get(name, 0) + 1
                right[name] = right.get(name, 0) + (index in accepted)
        self.work.candidates.add(len(candidates), len(accepted))
        self.work.drafted(proposed, right)

    def _fail(self, session: Session, error: PacelineError) -> None:
        self.metrics.requests.ended(session, time.monotonic(), ERROR)
        session.fail(error)
        self._leave(session)
