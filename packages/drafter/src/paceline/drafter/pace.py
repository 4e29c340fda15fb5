"""How far away a verifier is, and how fast it goes: what budgets for drafts follow. Pure; times are arguments."""

from __future__ import annotations

import math
from dataclasses import replace

from paceline.drafter.strategies.base import Budget

ADAPTATION = 0.1
MAX_STEP_S = 10.0
MAX_ROUND_TRIP_S = 30.0
NODES_PER_STEP_AWAY = 12  # simulated over links of 40 and 100 ms: 8 are worse, 16 no better
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

    def observe_round_trip(self, seconds: float) -> None:
        """A ping was answered."""
        self.round_trip_s = _towards(self.round_trip_s, min(seconds, MAX_ROUND_TRIP_S))

    def observe_draft(self, seconds: float) -> None:
        """A draft is made."""
        self.draft_s = _towards(self.draft_s, seconds)

    def observe_step(self, seconds: float) -> None:
        """A commit came. seconds: as the verifier says, 0 if it doesn't."""
        if seconds > 0.0:
            self.step_s = _towards(self.step_s, min(seconds, MAX_STEP_S))

    @property
    def is_far(self) -> bool:
        """Drafts for the next step come too late for it, so they must reach beyond it."""
        return self._reaches and self.step_s > 0.0 and self.round_trip_s > FAR * self.step_s

    @property
    def steps_away(self) -> float:
        """How many steps the verifier makes from when it tells of a commit until the draft for it arrives; 0 for one
        next door."""
        if not self.is_far:
            return 0.0
        return (self.round_trip_s + self.draft_s) / self.step_s

    def extended(self, budget: Budget, max_nodes: int) -> Budget:
        """The budget for a verifier that will have gone on by `steps_away` when the draft arrives. At most max_nodes.

        What commits on the way is part of the tree, so nothing is too unlikely to be in it. The rule knows no tokens
        per step on purpose: after a miss both pace and trees would be small, and stay so.
        """
        if not self.is_far:
            return budget
        nodes = budget.max_nodes + math.ceil(NODES_PER_STEP_AWAY * self.steps_away)
        return replace(budget, max_nodes=min(max(max_nodes, budget.max_nodes), nodes), least_value=0.0)


def _towards(mean: float, value: float) -> float:
    return value if mean == 0.0 else mean + ADAPTATION * (value - mean)
