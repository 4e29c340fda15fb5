"""Refit when what it will bring exceeds what it costs (after SpecBlock's cost-aware updates).

A refit takes computing from serving for `refit_s`. What it brings is a share of all tokens until the text changes
again: the expected gain, times the traffic expected by then. Both sides are told in seconds of serving, so no price has
to be named:

    gain * busy * horizon_s  >  weight * refit_s

The gain is expected from what earlier refits brought for each token learned from, as long as nothing has changed, and
from what has been lost since the best time after the last refit, if that is more. An acceptance a makes
1 / (1 - a) tokens a step, if all that is drafted is a chain that doesn't end before it is refused; so a fall from a to
b costs 1 - (1 - a) / (1 - b) of the speed.
"""

from __future__ import annotations

from dataclasses import dataclass

from paceline.trainer.online.schedule.base import Situation

MAX_ACCEPTANCE = 0.95


@dataclass(frozen=True, slots=True)
class CostAware:
    """See above.

    Attributes:
        horizon_s: for which text is expected to stay as it is.
        weight: seconds of serving that a second of refitting costs.
        first_tokens: of lessons before the first refit: by then nobody knows what one costs or brings.
        least_tokens: fewer teach nothing.
        busy_tokens_per_s: traffic at which serving is fully busy; less traffic makes tokens worth less.
    """

    horizon_s: float = 3600.0
    weight: float = 0.5
    first_tokens: int = 8192
    least_tokens: int = 2048
    busy_tokens_per_s: float = 50.0

    def due(self, situation: Situation) -> bool:
        if situation.new_tokens < self.least_tokens:
            return False
        if not situation.refit_s:
            return situation.drifted or situation.new_tokens >= self.first_tokens
        busy = min(1.0, situation.tokens_per_s / self.busy_tokens_per_s)
        return expected_gain(situation) * busy * self.horizon_s > self.weight * situation.refit_s


def expected_gain(situation: Situation) -> float:
    """Share of the speed that a refit may be expected to bring."""
    learned = max(0.0, situation.gain_per_token) * situation.new_tokens
    before = min(situation.best_acceptance, MAX_ACCEPTANCE)
    now = min(situation.acceptance, before)
    lost = 1.0 - (1.0 - before) / (1.0 - now)
    return max(learned, lost)
