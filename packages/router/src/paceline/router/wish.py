"""What a client wants of speculation, and what the router makes of that at a verifier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from paceline.router.arms import PLAIN, Arm, arm_of, arms_for


@dataclass(frozen=True, slots=True)
class Wish:
    """A client's choice; with neither `off` nor `drafters` the router chooses.

    Attributes:
        off: plain decoding.
        drafters: ids or names, instead of the router's choice.
        max_nodes: bound on candidates of a step, 0 for the verifier's.
    """

    off: bool = False
    drafters: tuple[str, ...] = ()
    max_nodes: int = 0

    @property
    def free(self) -> bool:
        """The router chooses."""
        return not self.off and not self.drafters

    def met_by(self, connected: Mapping[str, str]) -> bool:
        """Whether all the drafters it names are connected. `connected` are names by id."""
        return all(drafter in connected or drafter in connected.values() for drafter in self.drafters)

    def present(self, connected: Mapping[str, str]) -> tuple[str, ...]:
        """Those of the drafters it names that are connected, as it names them."""
        return tuple(one for one in self.drafters if one in connected or one in connected.values())

    def arm(self, connected: Mapping[str, str]) -> Arm:
        """The arm that a wish which isn't free amounts to."""
        return PLAIN if self.off else arm_of(connected.get(one, one) for one in self.drafters)

    def budget(self, arm: Arm) -> int:
        """The bound on candidates of a step that meets both the wish and the arm; 0 for the verifier's."""
        return min(filter(None, (self.max_nodes, arm.max_nodes)), default=0)

    def teaches(self, arm: Arm, connected: Mapping[str, str]) -> bool:
        """Whether a segment under `arm` says something about it.

        Not if a drafter of it has gone meanwhile. And only about arms that the router itself could choose, so
        that clients can't fill its memory with others, nor with the results of budgets of their own.
        """
        if self.max_nodes:
            return False
        if self.free:
            return set(arm.drafters) <= set(connected.values())
        return arm in arms_for(connected.values())
