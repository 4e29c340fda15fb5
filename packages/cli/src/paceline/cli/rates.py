"""How fast a deployment is: two looks at it, and what lies between them."""

from __future__ import annotations

from dataclasses import dataclass

from paceline.cli.deployment import Candidates, Deployment, Verifier, Work


@dataclass(frozen=True, slots=True)
class Rates:
    """Of one verifier between two of its announcements.

    Attributes:
        seconds: by its own clock.
        tokens_per_s: of all answers together.
        tokens_per_step: of a session; None if none decoded.
        acceptance: accepted of verified candidates; None if there were none.
    """

    seconds: float
    tokens_per_s: float
    tokens_per_step: float | None
    acceptance: float | None


def rates_between(before: Work, after: Work) -> Rates | None:
    """None if the later one is no later: not announced anew yet, or the verifier was started again."""
    seconds = after.clock_s - before.clock_s
    if seconds <= 0.0 or after.generated_tokens < before.generated_tokens:
        return None
    tokens = after.generated_tokens - before.generated_tokens
    steps = after.session_steps - before.session_steps
    return Rates(
        seconds=seconds,
        tokens_per_s=tokens / seconds,
        tokens_per_step=tokens / steps if steps > 0 else None,
        acceptance=after.candidates.since(before.candidates).share,
    )


class Watcher:
    """Remembers of each verifier its latest two announcements that differ, so looks may come faster than those."""

    def __init__(self) -> None:
        self._latest: dict[str, Work] = {}
        self._before: dict[str, Work] = {}

    def look(self, deployment: Deployment) -> None:
        """Takes note of what is there now; verifiers that are gone are forgotten."""
        there = {verifier.id: verifier.work for verifier in deployment.verifiers if verifier.work is not None}
        self._latest = {name: work for name, work in self._latest.items() if name in there}
        for name, work in there.items():
            known = self._latest.get(name)
            if known is None or work.clock_s < known.clock_s:  # new, or started again
                self._before.pop(name, None)
                self._latest[name] = work
            elif work.clock_s > known.clock_s:
                self._before[name], self._latest[name] = known, work

    def rates(self, verifier: Verifier) -> Rates | None:
        """Of one that was seen; None until it has announced itself twice."""
        before, latest = self._before.get(verifier.id), self._latest.get(verifier.id)
        return rates_between(before, latest) if before is not None and latest is not None else None

    def candidates_of(self, name: str) -> Candidates:
        """Of drafters of this name lately: between the same two announcements, of all verifiers."""
        total = Candidates()
        for verifier_id, latest in self._latest.items():
            before = self._before.get(verifier_id)
            if before is not None:
                since = latest.drafters.get(name, Candidates()).since(before.drafters.get(name, Candidates()))
                total = total.and_also(since)
        return total

    def knows_all(self, deployment: Deployment) -> bool:
        """Whether there are rates of every verifier that tells."""
        return all(self.rates(one) is not None for one in deployment.verifiers if one.work is not None)
