"""What a learner remembers of its own work, over restarts."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from paceline.trainer.durable import replace_synced
from paceline.trainer.online.gate import Verdict

NEWEST = 0.3  # weight of the newest refit in what is expected of the next


@dataclass(frozen=True, slots=True)
class Counters:
    """Attributes:
    refits: begun.
    published, refused, withdrawn, diverged: what became of them.
    refit_s: seconds of computing that one takes, lately.
    gain_per_token: share of speed gained for each token learned from, lately; see `schedule.base.Situation`.
    """

    refits: int = 0
    published: int = 0
    refused: int = 0
    withdrawn: int = 0
    diverged: int = 0
    refit_s: float = 0.0
    gain_per_token: float = 0.0

    def judged(self, verdict: Verdict, seconds: float, learned_tokens: int) -> Counters:
        """After a refit that the gate has judged. A gain in acceptance is told as one in speed as `cost_aware` does."""
        before, after = (min(value, 0.95) for value in (verdict.before, verdict.after))
        gained = ((1.0 - before) / (1.0 - after) - 1.0) / max(1, learned_tokens)
        weight = NEWEST if self.refit_s else 1.0
        return replace(
            self,
            published=self.published + verdict.passes,
            refused=self.refused + (not verdict.passes),
            refit_s=self.refit_s + weight * (seconds - self.refit_s),
            gain_per_token=self.gain_per_token + weight * (gained - self.gain_per_token),
        )

    def save(self, path: Path) -> None:
        """Old content or new, whenever the power fails."""
        replace_synced(path, json.dumps(asdict(self)).encode())


def load_counters(path: Path) -> Counters:
    """What `save` wrote; new ones if there is nothing, or nothing that can be read: they only tell how to guess."""
    try:
        return Counters(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return Counters()
