"""What a verifier has done since it started: counts that it announces, so that a router can tell how fast it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MAX_DRAFTERS = 64  # that are told apart, "others" among them: drafters choose their names
OTHERS = "others"


@dataclass
class Tally:
    """Candidates verified, and those of them that became output."""

    proposed: int = 0
    accepted: int = 0

    def add(self, proposed: int, accepted: int) -> None:
        self.proposed += proposed
        self.accepted += accepted


@dataclass
class Work:
    """Plain counts, cheap enough for every step.

    Attributes:
        prompt_tokens: taken in, those included that the cache had.
        generated_tokens: of all answers.
        session_steps: steps of sessions that were decoding.
        candidates: of all drafters, each counted once.
        drafters: the same by drafter's name; a candidate that several proposed counts for each.
    """

    prompt_tokens: int = 0
    generated_tokens: int = 0
    session_steps: int = 0
    candidates: Tally = field(default_factory=Tally)
    drafters: dict[str, Tally] = field(default_factory=dict)

    def drafted(self, proposed: Mapping[str, int], accepted: Mapping[str, int]) -> None:
        """What a step said about one session's candidates, by the drafter's name."""
        for name, count in proposed.items():
            known = name if name in self.drafters or len(self.drafters) < MAX_DRAFTERS - 1 else OTHERS
            self.drafters.setdefault(known, Tally()).add(count, accepted.get(name, 0))
