"""Who is there: leases that announcements renew. Time is an argument, so this can be tested to the second."""

from __future__ import annotations

from dataclasses import dataclass

from paceline.router.member import Member, Role
from paceline.wire.errors import PacelineError, Reason

MAX_MEMBERS = 4096


@dataclass(frozen=True, slots=True)
class Lease:
    """A member with when it last announced itself; it is gone at announced_s + the registry's lease_s."""

    member: Member
    announced_s: float


class Registry:
    """Members by role and id, each for `lease_s` seconds after its last announcement.

    `now_s` of successive calls must not decrease.
    """

    def __init__(self, lease_s: float, max_members: int = MAX_MEMBERS) -> None:
        self.lease_s = lease_s
        self._max_members = max_members
        self._leases: dict[tuple[Role, str], Lease] = {}

    def announce(self, member: Member, now_s: float) -> None:
        """Registers or renews. Raises OVERLOADED if there is no room for another member."""
        key = (member.role, member.member_id)
        if key not in self._leases and len(self._leases) >= self._max_members:
            self.sweep(now_s)
            if len(self._leases) >= self._max_members:
                raise PacelineError(
                    Reason.OVERLOADED,
                    f"{len(self._leases)} members are registered, the limit; withdraw some",
                    field="members",
                    value=len(self._leases),
                    limit=self._max_members,
                    retry_after_s=self.lease_s,
                )
        self._leases[key] = Lease(member, now_s)

    def withdraw(self, role: Role, member_id: str) -> None:
        """Ends a lease; one that is not there is no error, since it is gone either way."""
        self._leases.pop((role, member_id), None)

    def leases(self, role: Role, now_s: float) -> list[Lease]:
        """Those of one role that hold, in the order of their ids."""
        live = [lease for lease in self._leases.values() if lease.member.role is role and self._holds(lease, now_s)]
        return sorted(live, key=lambda lease: lease.member.member_id)

    def members(self, role: Role, now_s: float) -> list[Member]:
        return [lease.member for lease in self.leases(role, now_s)]

    def sweep(self, now_s: float) -> None:
        """Forgets leases that have run out; they don't count as members before that either."""
        self._leases = {key: lease for key, lease in self._leases.items() if self._holds(lease, now_s)}

    def _holds(self, lease: Lease, now_s: float) -> bool:
        return now_s < lease.announced_s + self.lease_s
