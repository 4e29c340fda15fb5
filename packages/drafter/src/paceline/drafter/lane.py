"""A model's thread. Streams tell it of their sessions and get drafts back; it never makes the event loop wait."""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace

import structlog

from paceline.drafter.model_worker import Done, Key, ModelDraft, ModelWorker, Session
from paceline.drafter.opening import Opening
from paceline.drafter.pace import Pace
from paceline.drafter.strategies.base import Budget, Candidates, Commit
from paceline.drafter.vocabulary.base import BridgeKind
from paceline.wire.errors import PacelineError

log = structlog.get_logger()

NewSession = Callable[[BridgeKind, Opening], Session]
Deliver = Callable[[ModelDraft], None]
IDLE_S = 0.5  # how long to wait for an event when there is nothing to think about


class ModelLane:
    """One model at work for all streams.

    Args:
        strategy: its name.
        worker: owned by the thread from `start` on.
        new_session: makes the state of a session.
    """

    def __init__(self, strategy: str, worker: ModelWorker, new_session: NewSession) -> None:
        self.strategy = strategy
        self._worker = worker
        self._new_session = new_session
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._streams: dict[int, LaneStream] = {}  # read and written by the thread alone
        self._numbers = itertools.count()
        self._texts: dict[Key, _Text] = {}  # what a model that takes over has to read; the thread's alone, too
        self.num_failures = 0  # of the model
        self.num_swaps = 0
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=strategy, daemon=True)

    @property
    def done(self) -> Done:
        """What the models at work here have done, one after the other."""
        return self._worker.done

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after the forward pass that is under way."""
        self._stopping = True
        self._inbox.put(lambda: None)
        self._thread.join()

    def attach(self, kind: BridgeKind, pace: Pace, deliver: Deliver) -> LaneStream:
        """A stream's way in. `deliver` is called on the running event loop.

        Args:
            kind: joins the target's vocabulary and the model's.
            pace: of the stream's verifier.
            deliver: takes drafts; a key's second part is the session's id.
        """
        stream = LaneStream(next(self._numbers), self, kind, pace, asyncio.get_running_loop(), deliver)
        self.call(lambda: self._streams.__setitem__(stream.number, stream))
        return stream

    def call(self, event: Callable[[], None]) -> None:
        """Has the thread do something between two forward passes."""
        self._inbox.put(event)

    def swap(self, worker: ModelWorker, new_session: NewSession, exchange: Callable[[], bool]) -> Future[bool]:
        """Has another model take over between two forward passes; what runs goes on with it, no stream notices.

        Args:
            worker: of the model that takes over, without sessions.
            new_session: makes the state of a session on it.
            exchange: called on the thread right before; if it says no, all stays as it is, and the result is False.
        """
        swapped: Future[bool] = Future()

        def event() -> None:
            if not swapped.set_running_or_notify_cancel():
                return
            try:
                swapped.set_result(exchange() and self._take_over(worker, new_session))
            except Exception as error:
                swapped.set_exception(error)

        self.call(event)
        return swapped

    # From here on, on the thread.

    def _take_over(self, worker: ModelWorker, new_session: NewSession) -> bool:
        for key in worker.sessions():  # of a lane that it has left
            worker.closed(key)
        before, self._worker, self._new_session = self._worker, worker, new_session
        worker.done = before.done
        self.num_swaps += 1
        for key, is_due in before.sessions().items():
            text = self._texts[key]
            told = before.told(key)
            opening = replace(text.opening, tokens=tuple(text.tokens), digest=text.digest, features=told)
            # One that has had its draft gets no second one; its text is read while the verifier is at work.
            self._begin(text.stream, opening, text.budget, is_due)
        return True

    def _run(self) -> None:
        while not self._stopping:
            self._take_events()
            try:
                drafts = self._worker.work()
            except Exception:  # out of memory, say: it costs these sessions their drafts and nobody else anything
                log.exception("model failed", strategy=self.strategy)
                self.num_failures += 1
                drafts = self._worker.give_up()
            for draft in drafts:
                self._deliver(draft)

    def _take_events(self) -> None:
        """All that have come; waits for one if there is nothing else to do."""
        waits = not self._worker.has_work
        while True:
            try:
                event = self._inbox.get(timeout=IDLE_S) if waits else self._inbox.get_nowait()
            except queue.Empty:
                return
            waits = False
            event()

    def _deliver(self, draft: ModelDraft) -> None:
        number, session_id = draft.key
        if draft.gone:
            self._texts.pop(draft.key, None)
            log.warning("can't draft for a session", strategy=self.strategy, session=session_id, why=draft.gone)
        stream = self._streams.get(number)
        if stream is not None:
            stream.hand_over(draft)

    def open(self, stream: LaneStream, opening: Opening, budget: Budget) -> None:
        self._begin(stream, opening, budget, is_due=True)

    def _begin(self, stream: LaneStream, opening: Opening, budget: Budget, is_due: bool) -> None:
        key = (stream.number, opening.session_id)
        try:
            session = self._new_session(stream.kind, opening)
        except PacelineError as error:
            self._deliver(ModelDraft(key, len(opening.tokens), Candidates(), gone=error.message))
            return
        self._texts[key] = _Text(stream, opening, budget, list(opening.tokens), opening.digest)
        self._worker.opened(key, session, budget, stream.pace, is_due)

    def commit(self, key: Key, commit: Commit) -> None:
        text = self._texts.get(key)
        if text is not None:
            text.tokens.extend(commit.tokens)
            text.digest = commit.digest
        for draft in self._worker.committed(key, commit):
            self._deliver(draft)

    def close(self, key: Key) -> None:
        self._texts.pop(key, None)
        self._worker.closed(key)

    def detach(self, stream: LaneStream, session_ids: set[int]) -> None:
        self._streams.pop(stream.number, None)
        for session_id in session_ids:
            self.close((stream.number, session_id))


@dataclass(slots=True)
class _Text:
    """A session that is drafted for: what it was opened with, and its text as it is now."""

    stream: LaneStream
    opening: Opening
    budget: Budget
    tokens: list[int]
    digest: int


@dataclass(slots=True, eq=False)
class LaneStream:
    """One stream's part in a lane; used on the event loop."""

    number: int
    lane: ModelLane
    kind: BridgeKind
    pace: Pace
    loop: asyncio.AbstractEventLoop
    deliver: Deliver

    def opened(self, opening: Opening, budget: Budget) -> None:
        self.lane.call(lambda: self.lane.open(self, opening, budget))

    def committed(self, commit: Commit) -> None:
        self.lane.call(lambda: self.lane.commit((self.number, commit.session_id), commit))

    def closed(self, session_id: int) -> None:
        self.lane.call(lambda: self.lane.close((self.number, session_id)))

    def detach(self, session_ids: set[int]) -> None:
        """The stream has ended."""
        self.lane.call(lambda: self.lane.detach(self, session_ids))

    def hand_over(self, draft: ModelDraft) -> None:
        """On the lane's thread."""
        try:
            self.loop.call_soon_threadsafe(self.deliver, draft)
        except RuntimeError:
            return  # the loop is closed: the process ends
