"""Which verifier takes a request, and which are not to be trusted just now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from paceline.router.member import Member
from paceline.router.registry import Lease

COOL_DOWN_S = 1.0


def best_placed(
    verifiers: Iterable[Member], in_flight: Mapping[str, int], credit: Mapping[str, float]
) -> Member | None:
    """The one with the least occupancy, less its credit; by id where that is the same. None if there are none.

    A verifier without a free session has no credit: waiting for one may take longer than reading a prompt anew. So one
    that has is never busier than the least loaded by more than its credit, and without credits this is `least_loaded`.

    Args:
        verifiers: that could take the request.
        in_flight: see `occupancy`.
        credit: by id, the occupancy that what a verifier remembers of the prompt is worth (`affinity.py`).
    """

    def cost(member: Member) -> tuple[float, str]:
        busy = occupancy(member, in_flight)
        return (busy - credit.get(member.member_id, 0.0) if busy < 1.0 else busy), member.member_id

    return min(verifiers, key=cost, default=None)


def least_loaded(verifiers: Iterable[Member], in_flight: Mapping[str, int]) -> Member | None:
    """The one with the least load for its capacity; by id where that is the same. None if there are none."""
    return best_placed(verifiers, in_flight, {})


def occupancy(verifier: Member, in_flight: Mapping[str, int]) -> float:
    """Sessions at a verifier as a share of those that it runs at once.

    Args:
        verifier: as it announced itself.
        in_flight: requests of this router at each, by id. An announced load is some seconds old, and a burst of
            requests in between must not all go to the verifier that was idle then: the greater of both counts.
    """
    return max(verifier.load, in_flight.get(verifier.member_id, 0)) / max(1, verifier.capacity)


class Suspects:
    """Verifiers that failed. One is trusted again when it announces itself after a cool-down.

    Then it is alive. Its lease alone says nothing: that outlives a verifier that died.
    """

    def __init__(self, cool_down_s: float = COOL_DOWN_S) -> None:
        self._cool_down_s = cool_down_s
        self._failed_s: dict[str, float] = {}

    def failed(self, verifier_id: str, now_s: float) -> None:
        self._failed_s[verifier_id] = now_s

    def trusts(self, lease: Lease) -> bool:
        failed_s = self._failed_s.get(lease.member.member_id)
        return failed_s is None or lease.announced_s >= failed_s + self._cool_down_s

    def sweep(self, leases: Iterable[Lease]) -> None:
        """Forgets verifiers that left or are trusted again."""
        distrusted = {lease.member.member_id for lease in leases if not self.trusts(lease)}
        self._failed_s = {key: failed_s for key, failed_s in self._failed_s.items() if key in distrusted}
