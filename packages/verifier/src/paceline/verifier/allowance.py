"""How much somebody may ask for: a token bucket. Pure; times are arguments."""

from __future__ import annotations


class Allowance:
    """Grows by `rate` a second up to `most`, and may be overdrawn.

    `now_s` is of any clock that only goes forward.
    """

    def __init__(self, rate: float, most: float) -> None:
        self._rate = rate
        self._most = most
        self._left = most
        self._at_s: float | None = None

    def take(self, now_s: float, amount: float = 1.0) -> bool:
        """Takes the amount if there is as much."""
        self._grow(now_s)
        if self._left < amount:
            return False
        self._left -= amount
        return True

    def overdraw(self, now_s: float, amount: float) -> float:
        """Takes the amount, whether it is there or not; returns the seconds until a tenth of `most` is there again, 0
        if nothing is owed. The tenth lets one who waits as long do so seldom, not after every small amount."""
        self._grow(now_s)
        self._left -= amount
        return 0.0 if self._left >= 0.0 else (0.1 * self._most - self._left) / self._rate

    def _grow(self, now_s: float) -> None:
        if self._at_s is not None:
            self._left = min(self._most, self._left + self._rate * (now_s - self._at_s))
        self._at_s = now_s
