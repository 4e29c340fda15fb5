"""Whether drafting pays at all, measured: drafters cost more than the rows they fill.

A drafter on the same machine takes processor time from the model, messages take the event loop's, and waiting takes
everybody's. No model of costs knows all that, so the verifier looks: for each size of the batch it compares the tokens
per second of stretches with drafting and of stretches without, does what is better, and tries the other again now and
then: soon at first, when little is known, and ever less often.
"""

from __future__ import annotations

from dataclasses import dataclass, field

STRETCH_STEPS = 12
SETTLING_STEPS = 2  # at the beginning of a stretch drafts are not there yet, or still are
FIRST_TRIAL, TRIAL_EVERY = 3, 32  # stretches between two trials of the worse way: at first, and in the end
FIRST_DRAFTING = 4  # stretches of a lone session before resting is tried: the drafters have to learn first
MARGIN = 1.03  # resting must be so much faster: tokens per second vary from stretch to stretch
MEMORY = 0.25  # weight of the latest stretch


@dataclass(slots=True)
class _Record:
    """Of one way at one size of the batch."""

    rate: float = 0.0  # tokens per second
    stretches: int = 0

    def add(self, rate: float) -> None:
        self.rate += (rate - self.rate) * (MEMORY if self.stretches else 1.0)
        self.stretches += 1


@dataclass(slots=True)
class _Size:
    drafting: _Record = field(default_factory=_Record)
    resting: _Record = field(default_factory=_Record)
    since_trial: int = 0
    trial_every: int = FIRST_TRIAL

    def next_way(self, first_drafting: int) -> bool:
        """Whether to draft in the next stretch."""
        if self.drafting.stretches < first_drafting:
            return True
        if self.resting.stretches == 0:
            return False
        better = self.drafting.rate * MARGIN >= self.resting.rate
        self.since_trial += 1
        if self.since_trial >= self.trial_every:
            self.since_trial = 0
            self.trial_every = min(2 * self.trial_every, TRIAL_EVERY)
            return not better
        return better


class Pacing:
    """Decides from step to step; pure: times are arguments."""

    def __init__(self) -> None:
        self.drafting = True
        self._sizes: dict[int, _Size] = {}
        self._size = 0
        self._steps = 0
        self._tokens = 0
        self._seconds = 0.0

    def observe(self, num_sessions: int, tokens: int, seconds: float) -> None:
        """A step of sessions that were all decoding committed so many tokens, and took so long, with all that lay
        between it and the step before."""
        size = num_sessions.bit_length()
        if size != self._size:
            self._begin(size)
        self._steps += 1
        if self._steps > SETTLING_STEPS:
            self._tokens += tokens
            self._seconds += seconds
        if self._steps >= STRETCH_STEPS:
            record = self._record(size)
            (record.drafting if self.drafting else record.resting).add(self._tokens / max(self._seconds, 1e-9))
            self._begin(size)

    def _begin(self, size: int) -> None:
        self._size = size
        self._steps = self._tokens = 0
        self._seconds = 0.0
        self.drafting = self._record(size).next_way(FIRST_DRAFTING if size == 1 else 1)

    def _record(self, size: int) -> _Size:
        return self._sizes.setdefault(size, _Size())
