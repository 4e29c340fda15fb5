"""A model's thread. Streams tell it of their sessions and get drafts back; it never makes the event loop wait."""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from paceline.drafter.model_worker import Key, ModelDraft, ModelWorker, Session
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
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=strategy, daemon=True)

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

    # From here on, on the thread.

    def _run(self) -> None:
        while not self._stopping:
            self._take_events()
            try:
                drafts = self._worker.work()
            except Exception:  # out of memory, say: it costs these sessions their drafts and nobody else anything
                log.exception("model failed", strategy=self.strategy)
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
            log.warning("can't draft for a session", strategy=self.strategy, session=session_id, why=draft.gone)
        stream = self._streams.get(number)
        if stream is not None:
            stream.hand_over(draft)

    def open(self, stream: LaneStream, opening: Opening, budget: Budget) -> None:
        key = (stream.number, opening.session_id)
        try:
            session = self._new_session(stream.kind, opening)
        except PacelineError as error:
            self._deliver(ModelDraft(key, len(opening.tokens), Candidates(), gone=error.message))
            return
        self._worker.opened(key, session, budget, stream.pace)

    def commit(self, key: Key, commit: Commit) -> None:
        for draft in self._worker.committed(key, commit):
            self._deliver(draft)

    def close(self, key: Key) -> None:
        self._worker.closed(key)

    def detach(self, stream: LaneStream, session_ids: set[int]) -> None:
        self._streams.pop(stream.number, None)
        for session_id in session_ids:
            self._worker.closed((stream.number, session_id))


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
