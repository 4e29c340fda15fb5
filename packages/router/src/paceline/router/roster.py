"""The living picture of a deployment: registry, suspects and what is in flight, with a clock and a bell."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from paceline.router.member import Member, Role
from paceline.router.orders import Orders
from paceline.router.placement import Suspects, best_placed, occupancy
from paceline.router.registry import Lease, Registry
from paceline.router.turnover import UNKNOWN_S, Turnover
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.waiting import happens

NO_CREDIT: Mapping[str, float] = MappingProxyType({})


class Place:
    """One request's place at a verifier. As a context it is left at the end; leaving again is harmless.

    Attributes:
        taken_up: set it when the verifier has; one that was refused says nothing of how long requests stay.
    """

    def __init__(self, left: Callable[[bool], None]) -> None:
        self.taken_up = False
        self._left: Callable[[bool], None] | None = left

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        left, self._left = self._left, None
        if left is not None:
            left(self.taken_up)


class Roster:
    """Answers who could take a request now, and wakes those that wait for somebody to appear.

    Args:
        registry: leases.
        clock: monotonic seconds.

    Attributes:
        orders: of an administrator.
    """

    def __init__(self, registry: Registry, clock: Callable[[], float]) -> None:
        self.registry = registry
        self.orders = Orders()
        self._clock = clock
        self._suspects = Suspects()
        self._in_flight: Counter[str] = Counter()
        self._turnovers: defaultdict[str, Turnover] = defaultdict(Turnover)  # by model
        self._changed = asyncio.Event()

    def announce(self, member: Member) -> None:
        """Raises OVERLOADED if the registry is full, PERMISSION_DENIED for a member that was withdrawn."""
        key = (member.role, member.member_id)
        self.orders.heard([key], self._clock())
        if self.orders.withdrawn(key):
            raise _withdrawn(member)
        self.registry.announce(member, self._clock())
        self._ring()

    def drain(self, role: Role, member_id: str, undo: bool) -> None:
        """Has a member get nothing new, or no longer so."""
        self.orders.drain((role, member_id), undo, self._clock())
        self._ring()

    def bar(self, role: Role, member_id: str, undo: bool) -> None:
        """Ends a member's lease and refuses its announcements, or no longer so."""
        self.orders.withdraw((role, member_id), undo, self._clock())
        if not undo:
            self.registry.withdraw(role, member_id)

    def withdraw(self, role: Role, member_id: str) -> None:
        self.registry.withdraw(role, member_id)

    def members(self, role: Role) -> list[Member]:
        return [self._ordered(member) for member in self.registry.members(role, self._clock())]

    def available(self) -> list[Member]:
        """Verifiers that take new requests and are trusted."""
        trusted = [self._ordered(lease.member) for lease in self._leases() if self._suspects.trusts(lease)]
        return [member for member in trusted if not member.draining]

    def pick(self, verifiers: list[Member], credit: Mapping[str, float] = NO_CREDIT) -> Member | None:
        """The least loaded of them, or one that knows the prompt: see `placement.best_placed`."""
        return best_placed(verifiers, self._in_flight, credit)

    def occupancy(self, verifier: Member) -> float:
        """How busy a verifier is now; 1 is as many sessions as it runs at once."""
        return occupancy(self._current(verifier), self._in_flight)

    def drafter_names(self, verifier: Member) -> dict[str, str]:
        """Names by id of the registered drafters that are connected to a verifier, as it announced last, and that
        anybody may use."""
        known = self.known_drafters()
        connected = self._current(verifier).connected
        return {drafter_id: known[drafter_id] for drafter_id in connected if drafter_id in known}

    def drafters_at(self, verifier: Member) -> dict[str, str]:
        """The same for all that are connected. One that is somebody's own, or that announced itself to the verifier
        only, has no name by which it could be asked for; its id stands for it."""
        connected = self._current(verifier).connected
        return {drafter_id: drafter_id for drafter_id in connected} | self.drafter_names(verifier)

    def known_drafters(self) -> dict[str, str]:
        """Names by id of all registered drafters that anybody may use."""
        drafters = [member for member in self.members(Role.DRAFTER) if not member.draining]
        return {member.member_id: member.name for member in drafters if not member.own and not member.trial_of}

    def trials_at(self, verifier: Member) -> dict[str, str]:
        """Ids of drafters on trial that are connected to a verifier, by the ids of those they would replace."""
        connected = set(self._current(verifier).connected)
        return {
            member.trial_of: member.member_id
            for member in self.members(Role.DRAFTER)
            if member.trial_of and {member.member_id, member.trial_of} <= connected
        }

    def announced_s(self, verifier: Member) -> float | None:
        """When a verifier announced itself last; None if its lease ran out."""
        lease = self._lease(verifier)
        return lease.announced_s if lease is not None else None

    def place(self, verifier: Member) -> Place:
        """Counts a request as being at a verifier until its place is left."""
        self._in_flight[verifier.member_id] += 1
        turnover, came_s = self._turnovers[verifier.model], self._clock()
        turnover.came()

        def left(taken_up: bool) -> None:
            self._in_flight[verifier.member_id] -= 1
            if self._in_flight[verifier.member_id] <= 0:
                del self._in_flight[verifier.member_id]
            turnover.left(self._clock() - came_s if taken_up else None)

        return Place(left)

    def turned_away(self, model: str) -> float:
        """No verifier of a model has room for a request; seconds after which it had better come back."""
        return self._turnovers[model].turned_away() if model in self._turnovers else UNKNOWN_S

    def running(self, member_id: str) -> int:
        """Requests of this router at a verifier."""
        return self._in_flight[member_id]

    def failed(self, verifier: Member) -> None:
        """Distrusts a verifier until it announces itself again."""
        self._suspects.failed(verifier.member_id, self._clock())

    async def announcement(self, timeout_s: float) -> bool:
        """Waits for anybody to announce itself; False if nobody did in time."""
        return await happens(self._changed, timeout_s)

    def sweep(self) -> list[Member]:
        """Forgets who is gone; returns the verifiers that are left."""
        self.registry.sweep(self._clock())
        self.orders.sweep(self._clock())
        leases = self._leases()
        self._suspects.sweep(leases)
        models = {lease.member.model for lease in leases}
        for model in self._turnovers.keys() - models:
            del self._turnovers[model]
        return [lease.member for lease in leases]

    def _ring(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _ordered(self, member: Member) -> Member:
        """As others see it: one that an administrator drained is as one that says so itself."""
        drained = self.orders.drained((member.role, member.member_id))
        return replace(member, draining=True) if drained else member

    def _leases(self) -> list[Lease]:
        return self.registry.leases(Role.VERIFIER, self._clock())

    def _current(self, verifier: Member) -> Member:
        lease = self._lease(verifier)
        return lease.member if lease is not None else verifier

    def _lease(self, verifier: Member) -> Lease | None:
        return next((lease for lease in self._leases() if lease.member.member_id == verifier.member_id), None)


def _withdrawn(member: Member) -> PacelineError:
    return PacelineError(
        Reason.PERMISSION_DENIED,
        f"an administrator withdrew {member.role.value} {member.member_id!r} from this router; to let it in again: "
        f"paceline-router withdraw {member.member_id} --undo",
        field="member.id",
        value=member.member_id,
    )
