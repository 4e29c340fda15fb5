"""How far away a verifier is, and how fast it goes: what budgets for drafts follow. Pure; times are arguments."""

from __future__ import annotations

import math
from dataclasses import replace

from paceline.drafter.strategies.base import Budget

ADAPTATION = 0.1
MAX_STEP_S = 10.0
MAX_ROUND_TRIP_S = 30.0
NODES_PER_TOKEN_AWAY = 4
FAR = 0.5  # of a step: a verifier further away than this is told more than the next step needs


class Pace:
    """Of one verifier. All running means.

    Args:
        reaches: whether drafts reach beyond the next step of a verifier that is far away.
    """

    def __init__(self, reaches: bool = True) -> None:
        self._reaches = reaches
        self.round_trip_s = 0.0  # of the link alone, to the verifier and back
        self.draft_s = 0.0  # to make a draft
        self.step_s = 0.0  # from one of the verifier's steps to the next
        self.step_tokens = 1.0  # that one of them commits

    def observe_round_trip(self, seconds: float) -> None:
        """A ping was answered."""
        self.round_trip_s = _towards(self.round_trip_s, min(seconds, MAX_ROUND_TRIP_S))

    def observe_draft(self, seconds: float) -> None:
        """A draft is made."""
        self.draft_s = _towards(self.draft_s, seconds)

    def observe_step(self, seconds: float, num_tokens: int) -> None:
        """A commit came. seconds: as the verifier says, 0 if it doesn't."""
        if seconds > 0.0:
            self.step_s = _towards(self.step_s, min(seconds, MAX_STEP_S))
        self.step_tokens += ADAPTATION * (num_tokens - self.step_tokens)

    @property
    def is_far(self) -> bool:
        """Drafts for the next step come too late for it, so they must reach beyond it."""
        return self._reaches and self.step_s > 0.0 and self.round_trip_s > FAR * self.step_s

    @property
    def tokens_away(self) -> int:
        """How many tokens the verifier commits from when it tells of a commit until the draft for it arrives. 0 for one
        that waits next door."""
        if not self.is_far:
            return 0
        return math.ceil((self.round_trip_s + self.draft_s) / self.step_s * self.step_tokens)

    def extended(self, budget: Budget, max_nodes: int) -> Budget:
        """The budget for a verifier that will have gone on by `tokens_away` when the draft arrives: as many nodes more
        for each as leave it a choice. At most max_nodes."""
        nodes = min(max(max_nodes, budget.max_nodes), budget.max_nodes + NODES_PER_TOKEN_AWAY * self.tokens_away)
        return replace(budget, max_nodes=nodes)


def _towards(mean: float, value: float) -> float:
    return value if mean == 0.0 else mean + ADAPTATION * (value - mean)
