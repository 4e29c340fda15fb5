"""What every request's relay works with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from paceline.router.learner import Learner
from paceline.router.roster import Roster
from paceline.router.trial_book import TrialBook
from paceline.router.verifiers import Verifiers


@dataclass(frozen=True, slots=True)
class Backend:
    """Shared parts and settings of all requests.

    Attributes:
        trials: of drafters' new revisions.
        segment_tokens: tokens after which drafters are chosen anew.
        failover_wait_s: how long a request waits for a verifier to appear.
        clock: monotonic seconds.
    """

    roster: Roster
    learner: Learner
    verifiers: Verifiers
    trials: TrialBook
    segment_tokens: int
    failover_wait_s: float
    clock: Callable[[], float]
