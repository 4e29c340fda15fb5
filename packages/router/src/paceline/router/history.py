"""What became of arms and members, for people to look at: bounded, and with time as an argument."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from paceline.router.arms import Arm
from paceline.router.member import Member, Role
from paceline.router.trials import Outcome

MAX_POINTS = 360
MAX_ARMS = 64
MAX_EVENTS = 200

EventKind = Literal["came", "left", "revision", "trial", "verdict", "policy"]
Key = tuple[str, Arm]
"""A model's name, and an arm that can be chosen there."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is believed of an arm at one time; `speed` is relative to plain decoding, 0 without any segments."""

    segments: float
    speed: float


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    Attributes:
        kind: a member came or left, serves another revision, went on trial or got a verdict; or the policy changed.
        role, member_id, name: of the member; empty for a policy.
        before, after: revisions, policies, or in `after` the verdict, or for "trial" whom it would replace.
    """

    time_s: float
    kind: EventKind
    role: str = ""
    member_id: str = ""
    name: str = ""
    before: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """One arm's estimates, one for each of the history's times; None where it couldn't be chosen."""

    model: str
    arm: Arm
    estimates: tuple[Estimate | None, ...]


class History:
    """The last points of each arm and the last events. Memory is at most points times arms.

    Times of successive calls are seconds since 1970.
    """

    def __init__(self, max_points: int = MAX_POINTS, max_arms: int = MAX_ARMS, max_events: int = MAX_EVENTS) -> None:
        self._max_arms = max_arms
        self._points: deque[tuple[float, dict[Key, Estimate]]] = deque(maxlen=max_points)
        self._events: deque[Event] = deque(maxlen=max_events)
        self._members: dict[tuple[Role, str], Member] = {}
        self._policy = ""

    def estimated(self, now_s: float, estimates: Mapping[Key, Estimate]) -> None:
        """A point of every arm. Of more arms than there is room for, those with most segments count."""
        kept = sorted(estimates, key=lambda key: (-estimates[key].segments, key))[: self._max_arms]
        self._points.append((now_s, {key: estimates[key] for key in kept}))

    def saw(self, now_s: float, members: Iterable[Member], policy: str) -> None:
        """Who is there now, and the policy in force: what differs from the last time is an event."""
        seen = {(member.role, member.member_id): member for member in members}
        for key in sorted(self._members.keys() - seen.keys(), key=_order):
            self._add(now_s, "left", self._members[key], before=self._members[key].revision)
        for key, member in seen.items():
            before = self._members.get(key)
            if before is None:
                kind: EventKind = "trial" if member.trial_of else "came"
                self._add(now_s, kind, member, after=member.trial_of or member.revision)
            elif before.revision != member.revision:
                self._add(now_s, "revision", member, before.revision, member.revision)
        if self._policy and policy != self._policy:
            self._events.append(Event(now_s, "policy", before=self._policy, after=policy))
        self._members, self._policy = seen, policy

    def decided(self, now_s: float, drafter_id: str, outcome: Outcome) -> None:
        """A trial's verdict."""
        member = self._members.get((Role.DRAFTER, drafter_id)) or Member(drafter_id, Role.DRAFTER)
        self._add(now_s, "verdict", member, before=member.trial_of, after=outcome.value)

    @property
    def times_s(self) -> list[float]:
        """Of the points, the oldest first."""
        return [time_s for time_s, _ in self._points]

    @property
    def events(self) -> list[Event]:
        """The oldest first."""
        return list(self._events)

    def series(self) -> list[Series]:
        """Of arms that have a point, those of the newest points first where there are too many."""
        newest_first = [key for _, estimates in reversed(self._points) for key in estimates]
        keys = sorted(list(dict.fromkeys(newest_first))[: self._max_arms])
        return [Series(*key, tuple(estimates.get(key) for _, estimates in self._points)) for key in keys]

    def _add(self, now_s: float, kind: EventKind, member: Member, before: str = "", after: str = "") -> None:
        self._events.append(
            Event(now_s, kind, member.role.value, member.member_id, member.name or member.member_id, before, after)
        )


def _order(key: tuple[Role, str]) -> tuple[str, str]:
    return key[0].value, key[1]
