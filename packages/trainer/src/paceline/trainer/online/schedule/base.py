"""What decides when to refit. Pure: everything a rule may know is in `Situation`, its memory included."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Situation:
    """What is known when somebody asks whether to refit now.

    Attributes:
        now_s: clock, seconds.
        refitted_s: when the last refit ended, or the learner began.
        new_tokens: of lessons since the last refit.
        tokens_per_s: of lessons, lately.
        acceptance: of drafts lately, in [0, 1].
        best_acceptance: that it has reached since the last refit.
        refit_s: seconds of computing that a refit takes, as measured; 0 before the first.
        gain_per_token: tokens per second that are gained, as a share, for each token of lessons learned from: measured
            at the gates of earlier refits; 0 before the first.
        drifted: the drift test has spoken since the last refit.
    """

    now_s: float
    refitted_s: float
    new_tokens: int
    tokens_per_s: float
    acceptance: float
    best_acceptance: float
    refit_s: float = 0.0
    gain_per_token: float = 0.0
    drifted: bool = False


class Schedule(Protocol):
    """A rule. To add one: a file with a class, and a line in `SCHEDULES`."""

    def due(self, situation: Situation) -> bool:
        """Whether to refit now."""
