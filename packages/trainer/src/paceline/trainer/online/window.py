"""The newest lessons, as many as are learned from, and what they say of how drafting goes."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from paceline.trainer.online.lessons import Lesson, TargetIdentity, read_lesson
from paceline.trainer.online.schedule.drift import DriftTest
from paceline.v1 import trainer_pb2
from paceline.wire.errors import PacelineError

RECENT_TOKENS = 4096  # over which acceptance is told


@dataclass(slots=True)
class Window:
    """Use: `add` lessons in the order in which they were made; `refitted` when a refit has ended.

    Attributes:
        target: whose lessons are taken.
        max_tokens: of lessons that are kept.
        drift: test for acceptance that falls.
        new_tokens: since the last refit.
        recent: acceptance when lessons came last; to be read by other threads.
        refused: lessons that can't be learned from, by reason.
    """

    target: TargetIdentity
    max_tokens: int
    drift: DriftTest = field(default_factory=DriftTest)
    new_tokens: int = 0
    recent: float = 0.0
    best_acceptance: float = 0.0
    refused: Counter[str] = field(default_factory=Counter)
    _lessons: deque[Lesson] = field(default_factory=deque)
    _num_tokens: int = 0

    def add(self, messages: Iterable[trainer_pb2.Lesson]) -> None:
        """Lessons that can't be learned from are counted and left out."""
        for message in messages:
            try:
                lesson = read_lesson(message, self.target)
            except PacelineError as error:
                self.refused[error.reason.value] += 1
                continue
            self._lessons.append(lesson)
            self._num_tokens += len(lesson.tokens)
            self.new_tokens += len(lesson.tokens)
            self.drift = self.drift.observe(int(lesson.accepted.sum()), len(lesson.tokens))
            while self._num_tokens > self.max_tokens and len(self._lessons) > 1:
                self._num_tokens -= len(self._lessons.popleft().tokens)
        self.recent = self.acceptance
        if self.new_tokens >= RECENT_TOKENS:
            self.best_acceptance = max(self.best_acceptance, self.acceptance)

    def __len__(self) -> int:
        return len(self._lessons)

    @property
    def num_tokens(self) -> int:
        return self._num_tokens

    @property
    def newest_id(self) -> bytes:
        """Of the newest lesson, b"" if there is none."""
        return self._lessons[-1].lesson_id if self._lessons else b""

    @property
    def acceptance(self) -> float:
        """Share of the latest tokens that had been drafted."""
        tokens = accepted = 0
        for lesson in reversed(self._lessons):
            tokens += len(lesson.tokens)
            accepted += int(lesson.accepted.sum())
            if tokens >= RECENT_TOKENS:
                break
        return accepted / max(1, tokens)

    def lessons(self, held_out: bool) -> list[Lesson]:
        """The oldest first."""
        return [lesson for lesson in self._lessons if lesson.is_held_out == held_out]

    def follow(self, weights_hash: str) -> None:
        """The target has other weights now: what the old ones said is forgotten."""
        self.target = replace(self.target, weights_hash=weights_hash)
        self._lessons.clear()
        self._num_tokens = 0
        self.refitted()

    def refitted(self) -> None:
        """What comes from now on is new."""
        self.new_tokens = 0
        self.best_acceptance = 0.0
        self.drift = self.drift.restarted()
