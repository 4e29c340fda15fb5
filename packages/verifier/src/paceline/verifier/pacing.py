"""Whether drafting pays at all, measured: drafters cost more than the rows they fill.

A drafter on the same machine takes processor time from the model, messages take the event loop's, and waiting takes
everybody's. No model of costs knows all that, so the verifier looks: for each size of the batch it compares how much
stretches with drafting get done in a second, and stretches without; does what is better, and tries the other again now
and then: soon at first, when little is known, and ever less often. Until it has seen both it goes by the cost of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

STRETCH_STEPS = 12
SETTLING_STEPS = 2  # at the beginning of a stretch drafts are not there yet, or still are
TRIAL_EVERY = 32  # stretches; a trial of the worse way costs its loss, divided by this
MARGIN = 1.03  # resting must be so much faster: rates vary from stretch to stretch
MEMORY = 0.25  # weight of the latest stretch
FIRST_TRIAL = 2  # stretches until the first trial; then twice as many each time
HOPED_RIGHT = 0.4  # of candidates, one a session: what drafting can be expected to bring before it is known


@dataclass(slots=True)
class _Record:
    """Of one way at one size of the batch."""

    rate: float = 0.0  # seconds of plain passes, got done in a second
    stretches: int = 0

    def add(self, rate: float) -> None:
        self.rate += (rate - self.rate) * (MEMORY if self.stretches else 1.0)
        self.stretches += 1


@dataclass(slots=True)
class _Size:
    """What is known of one size of the batch, and the stretch that it is in; others may come in between."""

    hopeful: bool  # whether to draft while only one way is known
    drafting: bool
    steps: int = 0
    done_s: float = 0.0
    seconds: float = 0.0
    drafted: _Record = field(default_factory=_Record)
    rested: _Record = field(default_factory=_Record)
    since_trial: int = 0
    trial_every: int = FIRST_TRIAL

    def add(self, done_s: float, seconds: float) -> None:
        self.steps += 1
        self.done_s += done_s
        self.seconds += seconds
        if self.steps == STRETCH_STEPS:
            (self.drafted if self.drafting else self.rested).add(self.done_s / max(self.seconds, 1e-9))
            self.steps = 0
            self.done_s = self.seconds = 0.0
            self.drafting = self._next_way()

    def _next_way(self) -> bool:
        known = self.drafted.stretches > 0 and self.rested.stretches > 0
        better = self.drafted.rate * MARGIN >= self.rested.rate if known else self.hopeful
        self.since_trial += 1
        if self.since_trial >= self.trial_every:
            self.since_trial = 0
            self.trial_every = min(2 * self.trial_every, TRIAL_EVERY)
            return not better
        return better


class Pacing:
    """Decides from step to step; pure: times are arguments.

    A lone session always drafts: its gain is large, and so different from text to text that a comparison of stretches
    would often be wrong.

    Args:
        seconds: cost of a step by its rows.
    """

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self.drafting = True
        self._seconds = seconds
        self._sizes: dict[int, _Size] = {}
        self._last = 0  # size of the step before
        self._settling = 0

    def observe(self, num_sessions: int, done_s: float, seconds: float) -> None:
        """A step of so many sessions, all with drafters, did what takes `done_s` in passes without candidates, and took
        so long, with all that lay between it and the step before."""
        number = num_sessions.bit_length()
        size = self._sizes.get(number)
        if size is None:
            hopeful = self._hopeful(num_sessions)
            size = self._sizes[number] = _Size(hopeful, hopeful)
        way = self.drafting
        if num_sessions > 1 and number == self._last and self._settling == 0 and size.drafting == way:
            size.add(done_s, seconds)
        self._settling = max(0, self._settling - 1)
        self._last = number
        if size.drafting != way:
            self.drafting = size.drafting
            self._settling = SETTLING_STEPS

    def _hopeful(self, num_sessions: int) -> bool:
        """Whether a candidate for each session would pay if so many of them were right."""
        plain_s, drafting_s = self._seconds(num_sessions), self._seconds(2 * num_sessions)
        return num_sessions == 1 or (1.0 + HOPED_RIGHT) / drafting_s > 1.0 / plain_s


class NoPacing(Pacing):
    """Always drafts."""

    def __init__(self) -> None:
        super().__init__(lambda num_rows: 1.0)

    def observe(self, num_sessions: int, done_s: float, seconds: float) -> None:
        """Looks at nothing."""
