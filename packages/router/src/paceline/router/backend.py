"""What every request's relay works with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from paceline.router.affinity import Affinity
from paceline.router.arms import Arm, arms_for
from paceline.router.hedging import Hedging
from paceline.router.history import History
from paceline.router.learning import Learning
from paceline.router.metrics import Metrics
from paceline.router.roster import Roster
from paceline.router.trial_book import TrialBook
from paceline.router.verifiers import Verifiers
from paceline.wire.tracing import Spans


@dataclass(frozen=True, slots=True)
class Backend:
    """Shared parts and settings of all requests.

    Attributes:
        trials: of drafters' new revisions.
        small_budget: candidates of a step in arms with a small draft budget; 0 for no such arms.
        segment_tokens: tokens after which drafters are chosen anew.
        failover_wait_s: how long a request waits for a verifier to appear.
        accept_s: how long a verifier may take to take a request up.
        affinity: who read which prompts.
        hedging: second attempts.
        history: of arms and members, for people.
        clock: monotonic seconds.
        metrics: that count what happens.
        spans: that tell of each request.
    """

    roster: Roster
    learner: Learning
    verifiers: Verifiers
    trials: TrialBook
    small_budget: int
    segment_tokens: int
    failover_wait_s: float
    accept_s: float
    affinity: Affinity
    hedging: Hedging
    history: History
    clock: Callable[[], float]
    metrics: Metrics
    spans: Spans

    def arms_for(self, names: Iterable[str]) -> tuple[Arm, ...]:
        """The arms to choose from where drafters of these names are connected."""
        return arms_for(names, self.small_budget)
