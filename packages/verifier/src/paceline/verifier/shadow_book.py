"""Text on which drafters that weren't engaged may be scored, and their scores until somebody is told of them.

The engine writes down what becomes of requests that ask for it, segment by segment; `paceline.verifier.shadow_scorer`
reads it in the background. Both are bounded: what isn't scored soon, or told soon, goes. Pure.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from paceline.verifier.model.batch import SessionResult
from paceline.verifier.session import Session
from paceline.verifier.shadow_replay import Figures

MIN_TOKENS = 16  # of a stretch; less says too little for what the drafter has to read
MAX_TOKENS = 256
MAX_CONTEXT = 16_384  # tokens before a stretch; what is longer costs the drafter too much
MAX_STRETCHES = 4  # that wait, the newest
MAX_TENANTS = 256
MAX_SCORES = 16  # of one tenant that nobody has been told of, the newest


@dataclass(frozen=True, slots=True)
class ShadowScore:
    """What one drafter, engaged alone, would have made of a stretch."""

    drafter_id: str
    name: str
    figures: Figures


@dataclass(slots=True, eq=False)
class Stretch:
    """Verified text of a session.

    Attributes:
        start: length of the session before it.
        length: in tokens.
        top_ids: [length], the target's best successors after the token before each; () where they weren't asked for.
        before: the same of as many tokens before it, of the answer: who learns from them would have been told.
        num_sessions: that ran when it ended.
        num_wanted: drafters that are to be scored on it, at most.
        scored: ids of those that were, or that had a part in it.
    """

    session: Session
    start: int
    length: int = 0
    top_ids: list[Sequence[int]] = field(default_factory=list)
    before: list[Sequence[int]] = field(default_factory=list)
    num_sessions: int = 1
    num_wanted: int = 0
    scored: set[str] = field(default_factory=set)

    @property
    def gone(self) -> bool:
        """The client left before the answer was complete."""
        return self.session.cancelled and self.session.finish is None

    @property
    def text(self) -> list[int]:
        """From its beginning, and on to the end of what is known by now."""
        return self.session.tokens[self.start :]


class ShadowBook:
    """See the module.

    Args:
        top_k: of a session, how many of the target's best tokens drafters that may be scored on it would ask for.
    """

    def __init__(self, top_k: Callable[[Session], int]) -> None:
        self.wake: Callable[[], None] = lambda: None  # called when there is a new stretch
        self._top_k = top_k
        self._open: dict[int, Stretch] = {}  # by session
        self._last: dict[int, Stretch] = {}  # that was complete, by session
        self._waiting: deque[Stretch] = deque(maxlen=MAX_STRETCHES)
        self._scores: OrderedDict[str, deque[ShadowScore]] = OrderedDict()

    # What the engine tells it.

    @staticmethod
    def wants(session: Session) -> bool:
        """Whether this session's text is to be scored. What a grammar forced says little of other text, and drafts for
        it would have been cut."""
        request = session.request
        return session.speculation.shadow > 0 and request.segment_tokens > 0 and request.json_schema is None

    def top_k(self, session: Session) -> int:
        """How many of the target's best tokens the session's steps should report for it."""
        return self._top_k(session) if self.wants(session) else 0

    def observe(self, session: Session, result: SessionResult, taken: Sequence[int]) -> None:
        """A step's tokens, which the session has taken."""
        if not self.wants(session):
            self.forget(session)
            return
        start = session.length - len(taken)
        stretch = self._open.get(session.session_id)
        if stretch is None:
            stretch = self._open[session.session_id] = Stretch(session, start)
            last = self._last.get(session.session_id)
            if last is not None and last.start + last.length == start:
                stretch.before = [*last.before, *last.top_ids][-MAX_TOKENS:]
        if stretch.start + stretch.length != start or stretch.length >= MAX_TOKENS:  # full; until the segment ends
            return
        stretch.length += len(taken)
        rows = [0, *(index + 1 for index in result.accepted)][: len(taken)]
        stretch.top_ids.extend(result.top.ids[row] if result.top is not None else () for row in rows)

    def ended(self, session: Session, num_sessions: int, engaged: set[str]) -> None:
        """A segment of the session did; these drafters, by id, had a part in it."""
        stretch = self._open.pop(session.session_id, None)
        if stretch is None:
            return
        self._last[session.session_id] = stretch
        if stretch.length < MIN_TOKENS or stretch.start > MAX_CONTEXT:
            return
        stretch.num_sessions, stretch.num_wanted = num_sessions, session.speculation.shadow
        stretch.scored |= engaged
        self._waiting.append(stretch)
        self.wake()

    def forget(self, session: Session) -> None:
        """It is over; what of it was complete stays."""
        self._open.pop(session.session_id, None)
        self._last.pop(session.session_id, None)

    # What the scorer does with it.

    def next(self) -> Stretch | None:
        """The newest stretch that waits; it is taken."""
        while self._waiting:
            stretch = self._waiting.pop()
            if not stretch.gone:
                return stretch
        return None

    def put_back(self, stretch: Stretch) -> None:
        """There are others to be scored on it; newer ones go first."""
        if len(self._waiting) < MAX_STRETCHES:
            self._waiting.appendleft(stretch)

    def keep(self, tenant: str, score: ShadowScore) -> None:
        """Until the tenant's next outcome."""
        self._scores.setdefault(tenant, deque(maxlen=MAX_SCORES)).append(score)
        self._scores.move_to_end(tenant)
        while len(self._scores) > MAX_TENANTS:
            self._scores.popitem(last=False)

    def take(self, tenant: str) -> list[ShadowScore]:
        """What was found on this tenant's text since the last time."""
        return list(self._scores.pop(tenant, ()))
