"""Drafts by one model for the sessions of all streams: batches, budgets, places in the cache. Sans-thread.

Events go in (`opened`, `committed`, `closed`), `work` runs the model once and gives what drafts that completed. One
worker serves all verifiers, so their sessions share its forward passes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from paceline.drafter.calibration import Calibration
from paceline.drafter.features import Features
from paceline.drafter.growing import Growth
from paceline.drafter.models.base import LanguageModel, Rows, Scores
from paceline.drafter.pace import Pace
from paceline.drafter.stopping.base import Times
from paceline.drafter.strategies.base import Budget, Candidates, Commit
from paceline.wire.errors import PacelineError

MAX_BATCH = 8  # sessions in one forward pass
ADAPTATION = 0.2
MAX_TYPICAL_ROWS = 64  # a pass of more reads a context; it says nothing of how long the next one of a tree will take
MAX_AHEAD_NODES = 64  # beyond the draft, at most so many nodes are thought from before the commit comes

Key = tuple[int, int]  # of a session: its stream, and its id there


@dataclass(frozen=True, slots=True)
class ModelDraft:
    """What came of a session.

    Attributes:
        key: whose.
        length: of the context that the tree continues, in target tokens.
        candidates: the tree, with calibrated confidences.
        draft_s: time of the model that went into it.
        ahead: another, larger tree for a context that has had one; nobody waits for it.
        gone: why the model will draft for this session no more; empty if it will.
    """

    key: Key
    length: int
    candidates: Candidates
    draft_s: float = 0.0
    ahead: bool = False
    gone: str = ""


@dataclass(slots=True)
class Done:
    """What a model has done: forward passes, their rows, and the time they took."""

    passes: int = 0
    rows: int = 0
    seconds: float = 0.0


class Session(Protocol):
    """One session at work on the model, such as a `ModelSession`.

    Attributes:
        length: of the context in target tokens.
        lasting: a commit leaves what was thought below it, so that it pays to think ahead for a verifier next door.
    """

    length: int
    lasting: ClassVar[bool]

    @property
    def num_rows(self) -> int: ...

    @property
    def drawn(self) -> bool: ...

    @property
    def told(self) -> Features | None: ...

    def observe(self, tokens: Sequence[int], features: Features | None = None) -> None: ...

    def forget(self) -> None: ...

    def next_rows(self, budget: Budget, times: Times, ahead: bool = False) -> Rows | None: ...

    def absorb(self, scores: Scores) -> None: ...

    def candidates(self, budget: Budget, ahead: bool = False) -> Candidates: ...


@dataclass(slots=True)
class _Work:
    session: Session
    budget: Budget
    pace: Pace
    due: bool = True
    ahead: bool = True  # there may be something worth thinking about beyond the draft
    spent_s: float = 0.0
    committed_at: float = 0.0
    proposed: Candidates = field(default_factory=Candidates)
    num_sent: int = 0


class ModelWorker:
    """All sessions of one model.

    Args:
        model: which is called from `work` alone.
        growth: for all sessions.
        calibration: of the strategy.
        max_rows: that the caches of all sessions may hold together; the session unused for longest loses its rows. One
            session's context must be shorter than that.
        draft_ahead: go on beyond a draft until the next commit.
        clock: seconds.
    """

    def __init__(
        self,
        model: LanguageModel,
        growth: Growth,
        calibration: Calibration,
        max_rows: int,
        draft_ahead: bool,
        clock: Callable[[], float],
    ) -> None:
        self._model = model
        self._growth = growth
        self._calibration = calibration
        self._max_rows = max_rows
        self._draft_ahead = draft_ahead
        self._clock = clock
        self._sessions: OrderedDict[Key, _Work] = OrderedDict()  # the one unused for longest first
        self._at_work: list[Key] = []
        self._pass_s = 0.0
        self.done = Done()

    def __len__(self) -> int:
        return len(self._sessions)

    # What happens to sessions.

    def opened(self, key: Key, session: Session, budget: Budget, pace: Pace, due: bool = True) -> None:
        """A session, or one anew. due: its text as it is now waits for a draft."""
        self._sessions[key] = _Work(session, budget, pace, due, committed_at=self._clock())

    def sessions(self) -> dict[Key, bool]:
        """All there are; whether a draft is due."""
        return {key: work.due for key, work in self._sessions.items()}

    def told(self, key: Key) -> Features | None:
        """The target's states that a session keeps, for a model that takes over."""
        return self._sessions[key].session.told

    def committed(self, key: Key, commit: Commit) -> list[ModelDraft]:
        """A session goes on; a last draft of it if its text can't be followed."""
        work = self._sessions.get(key)
        if work is None:
            return []
        self._calibration.resolve(work.proposed, commit.tokens, work.session.drawn)
        try:
            work.session.observe(commit.tokens, commit.features)
        except PacelineError as error:
            return [self._part(key, error.message)]
        work.due = work.ahead = True
        work.spent_s, work.num_sent, work.proposed = 0.0, 0, Candidates()
        work.committed_at = self._clock()
        return []

    def closed(self, key: Key) -> None:
        self._sessions.pop(key, None)

    # Work.

    @property
    def has_work(self) -> bool:
        """`work` would do something."""
        return any(work.due or self._thinks_ahead(work) for work in self._sessions.values())

    def _thinks_ahead(self, work: _Work) -> bool:
        """There is something to think about, and time for it: a pass that is under way when the commit comes delays the
        next draft."""
        if not (self._draft_ahead and work.ahead) or work.due:
            return False
        if not (work.session.lasting or work.pace.is_far):
            return False
        left_s = work.committed_at + work.pace.step_s - self._clock()
        return left_s > self._pass_s

    def work(self) -> list[ModelDraft]:
        """Runs the model once for the sessions that are due, else for those that can be thought ahead of."""
        started = self._clock()
        due = any(work.due for work in self._sessions.values())
        drafts: list[ModelDraft] = []
        batch = []
        self._at_work = []
        for key, work in self._chosen(due):
            self._at_work.append(key)
            rows = work.session.next_rows(self._budget(work, not due), self._times(work), ahead=not due)
            if rows is None:
                drafts += self._finish(key, work, ahead=not due)
            else:
                batch.append((key, work, rows))
        if batch:
            for (key, work, _), logits in zip(batch, self._model.score([rows for *_, rows in batch]), strict=True):
                work.session.absorb(logits)
                self._sessions.move_to_end(key)
                if not due and work.pace.is_far:
                    drafts += self._draft(key, work, ahead=True)
            num_rows = sum(len(rows.tokens) for *_, rows in batch)
            self._took(self._clock() - started, num_rows, [work for _, work, _ in batch])
            self._make_room()
        return drafts

    def give_up(self) -> list[ModelDraft]:
        """After `work` raised: the sessions that were at work are drafted for no more. Returns their last drafts."""
        return [self._part(key, "the model failed") for key in self._at_work if key in self._sessions]

    def _part(self, key: Key, why: str) -> ModelDraft:
        """From a session that can't be drafted for."""
        return ModelDraft(key, self._sessions.pop(key).session.length, Candidates(), gone=why)

    def _chosen(self, due: bool) -> Iterator[tuple[Key, _Work]]:
        found = [(key, work) for key, work in self._sessions.items() if (work.due if due else self._thinks_ahead(work))]
        return iter(found[:MAX_BATCH])

    def _budget(self, work: _Work, ahead: bool) -> Budget:
        if not ahead:
            return work.budget
        # On the way to a verifier that is far away unlikely tokens become certain.
        least_value = 0.0 if work.pace.is_far else work.budget.least_value
        return Budget(work.budget.max_nodes + MAX_AHEAD_NODES, work.budget.max_depth, least_value)

    def _times(self, work: _Work) -> Times:
        return Times(self._pass_s, work.pace.step_s)

    def _took(self, seconds: float, num_rows: int, batch: list[_Work]) -> None:
        self.done.passes += 1
        self.done.rows += num_rows
        self.done.seconds += seconds
        if num_rows <= MAX_TYPICAL_ROWS:
            before = self._pass_s or seconds
            self._pass_s = before + ADAPTATION * (seconds - before)
        for work in batch:
            work.spent_s += seconds / len(batch)

    def _finish(self, key: Key, work: _Work, ahead: bool) -> list[ModelDraft]:
        """The tree is as large as pays."""
        if ahead:
            work.ahead = False
            return []  # the commit finds it
        work.due = False
        return self._draft(key, work, ahead)

    def _draft(self, key: Key, work: _Work, ahead: bool) -> list[ModelDraft]:
        try:
            candidates = work.session.candidates(self._budget(work, ahead), ahead)
        except PacelineError as error:
            return [self._part(key, error.message)]
        if ahead and len(candidates) <= work.num_sent:
            return []
        work.proposed, work.num_sent = candidates, len(candidates)
        corrected = self._calibration.corrected(candidates, work.session.drawn)
        return [ModelDraft(key, work.session.length, corrected, work.spent_s, ahead)]

    def _make_room(self) -> None:
        """The one that ran last keeps its rows, whatever that comes to: else it would read its context for ever."""
        held = sum(work.session.num_rows for work in self._sessions.values())
        for work in list(self._sessions.values())[:-1]:
            if held <= self._max_rows:
                return
            held -= work.session.num_rows
            work.session.forget()
