"""All trials that a router is part of: which requests they get, what came of those, and the verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import structlog

from paceline.router.trials import Evidence, Outcome, Rule

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of a trial now; `failed` if the revision did what no drafter may."""

    outcome: Outcome
    trial: Evidence
    before: Evidence
    failed: bool = False


@dataclass(slots=True)
class _Trial:
    trial: Evidence = field(default_factory=Evidence)
    before: Evidence = field(default_factory=Evidence)
    outcome: Outcome = Outcome.UNDECIDED
    failed: bool = False


class TrialBook:
    """Trials by the id of the drafter on trial; each begins when it is first asked for.

    Args:
        rule: decides.
        every: one in so many requests that would have had the drafter gets the one on trial.
        draw: a number in [0, 1) at each call.

    Attributes:
        verdicts: how many there were, by their outcome.
        decided: called with the drafter's id and the verdict when there is one.
    """

    def __init__(self, rule: Rule, every: int, draw: Callable[[], float]) -> None:
        self.verdicts: Counter[Outcome] = Counter()
        self._rule = rule
        self._every = every
        self._draw = draw
        self._trials: dict[str, _Trial] = {}
        self.decided: Callable[[str, Verdict], None] = lambda _drafter_id, _verdict: None

    def drawn(self, drafter_id: str) -> bool | None:
        """Whether a request goes to the drafter on trial; None once the trial is decided."""
        if self._of(drafter_id).outcome is not Outcome.UNDECIDED:
            return None
        return self._draw() * self._every < 1.0

    def learn(self, drafter_id: str, on_trial: bool, segments: int, reward: float) -> None:
        """One request has ended, or left the verifier, after so many segments with so much reward in all."""
        known = self._of(drafter_id)
        if on_trial:
            known.trial = known.trial.with_request(segments, reward)
        else:
            known.before = known.before.with_request(segments, reward)
        if known.outcome is Outcome.UNDECIDED:
            known.outcome = self._rule.decide(known.trial, known.before)
            if known.outcome is not Outcome.UNDECIDED:
                self._say(drafter_id, known)

    def failed(self, drafter_id: str) -> None:
        """A verifier had to refuse what the drafter on trial sent: that is worse than slow."""
        known = self._of(drafter_id)
        if not known.failed:
            known.failed, known.outcome = True, Outcome.WORSE
            self._say(drafter_id, known)

    def verdict(self, drafter_id: str) -> Verdict:
        known = self._of(drafter_id)
        return Verdict(known.outcome, known.trial, known.before, known.failed)

    def keep_only(self, drafter_ids: Collection[str]) -> None:
        """Forgets the trials of drafters that are gone."""
        self._trials = {name: trial for name, trial in self._trials.items() if name in drafter_ids}

    def _of(self, drafter_id: str) -> _Trial:
        return self._trials.setdefault(drafter_id, _Trial())

    def _say(self, drafter_id: str, known: _Trial) -> None:
        self.verdicts[known.outcome] += 1
        log.info(
            "trial decided",
            drafter=drafter_id,
            outcome=known.outcome.value,
            failed=known.failed,
            mean=round(known.trial.mean, 4),
            mean_before=round(known.before.mean, 4),
            segments=known.trial.segments,
        )
        self.decided(drafter_id, self.verdict(drafter_id))
