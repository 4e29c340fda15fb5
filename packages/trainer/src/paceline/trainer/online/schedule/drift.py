"""Whether acceptance has fallen for good, and is not just scattering: Page's test.

Page, *Continuous Inspection Schemes*, 1954, in Hinkley's form for a mean that isn't known beforehand. `observe` is
given one lesson after the other and returns the test's next state; nothing else is kept anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

MIN_TOKENS = 512  # before that the mean is not known well enough for anything to lie below it


@dataclass(frozen=True, slots=True)
class DriftTest:
    """The state of one test.

    Attributes:
        slack: of acceptance; a fall by less than that is not looked for.
        threshold: tokens of acceptance lost, beyond slack, at which it speaks. Larger: later, and less often wrongly.
        num_tokens: seen.
        mean: acceptance of those.
        lost: accumulated shortfall against the mean, less slack; what it has at its lowest counts as 0.
    """

    slack: float = 0.03
    threshold: float = 100.0
    num_tokens: int = 0
    mean: float = 0.0
    lost: float = 0.0

    @property
    def drifted(self) -> bool:
        return self.lost > self.threshold

    def observe(self, num_accepted: int, num_tokens: int) -> DriftTest:
        """A lesson's accepted tokens, and all of its tokens."""
        total = self.num_tokens + num_tokens
        mean = self.mean + (num_accepted - self.mean * num_tokens) / max(total, 1)
        shortfall = (mean - self.slack) * num_tokens - num_accepted
        lost = max(0.0, self.lost + shortfall) if total >= MIN_TOKENS else 0.0
        return DriftTest(self.slack, self.threshold, total, mean, lost)

    def restarted(self) -> DriftTest:
        """A new test, after a refit."""
        return DriftTest(self.slack, self.threshold)
