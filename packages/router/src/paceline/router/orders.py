"""What an administrator ordered of members: drained, or withdrawn. Time is an argument."""

from __future__ import annotations

from collections.abc import Iterable

from paceline.router.member import Role

FORGOTTEN_S = 86400.0  # since the member was heard of last

Key = tuple[Role, str]


class Orders:
    """Two sets of members, by role and id. They hold however often a member announces itself, and are forgotten when it
    stays away for a day."""

    def __init__(self, forgotten_s: float = FORGOTTEN_S) -> None:
        self._forgotten_s = forgotten_s
        self._drained: dict[Key, float] = {}
        self._withdrawn: dict[Key, float] = {}

    def drain(self, key: Key, undo: bool, now_s: float) -> None:
        _order(self._drained, key, undo, now_s)

    def withdraw(self, key: Key, undo: bool, now_s: float) -> None:
        _order(self._withdrawn, key, undo, now_s)

    def drained(self, key: Key) -> bool:
        """It finishes what it has and gets nothing new."""
        return key in self._drained

    def withdrawn(self, key: Key) -> bool:
        """Its announcements are refused."""
        return key in self._withdrawn

    def all_withdrawn(self) -> list[Key]:
        return sorted(self._withdrawn, key=lambda key: (key[0].value, key[1]))

    def heard(self, keys: Iterable[Key], now_s: float) -> None:
        """These members are there, or want to be."""
        for key in keys:
            for orders in (self._drained, self._withdrawn):
                if key in orders:
                    orders[key] = now_s

    def sweep(self, now_s: float) -> None:
        """Forgets orders about members that stayed away."""
        for orders in (self._drained, self._withdrawn):
            for key in [key for key, heard_s in orders.items() if now_s >= heard_s + self._forgotten_s]:
                del orders[key]


def _order(orders: dict[Key, float], key: Key, undo: bool, now_s: float) -> None:
    if undo:
        orders.pop(key, None)
    else:
        orders[key] = now_s
