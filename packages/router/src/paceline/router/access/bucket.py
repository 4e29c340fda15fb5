"""So much a minute: a bucket that fills steadily and is taken from. Time is an argument."""

from __future__ import annotations

NEGLIGIBLE = 1e-6  # of a unit; what is left of rounding is nobody's fault


class Bucket:
    """Holds at most a minute's worth, and starts full.

    So over any stretch of t seconds no more is let through than a minute's worth and what t seconds bring. What is
    known only afterwards may be taken though it isn't there: then the bucket is in debt, and nothing is there until
    it has refilled.

    Args:
        per_minute: what flows in, and what it holds; at least 1.
        now_s: of the clock whose times the methods get. Should that go back, no time has passed.
    """

    def __init__(self, per_minute: int, now_s: float) -> None:
        self.capacity = float(per_minute)
        self._per_second = per_minute / 60.0
        self._level = self.capacity
        self._at_s = now_s

    def level(self, now_s: float) -> float:
        """What is there; negative in debt."""
        self._flow(now_s)
        return self._level

    def wait_s(self, amount: float, now_s: float) -> float:
        """Seconds until so much is there, 0 if it is; infinite for more than it holds."""
        if amount > self.capacity:
            return float("inf")
        missing = amount - self.level(now_s)
        return missing / self._per_second if missing > NEGLIGIBLE else 0.0

    def take(self, amount: float, now_s: float) -> None:
        """There or not."""
        self._flow(now_s)
        self._level -= amount

    def give_back(self, amount: float, now_s: float) -> None:
        """What was taken for nothing; it never holds more than its capacity."""
        self._flow(now_s)
        self._level = min(self.capacity, self._level + amount)

    def resize(self, per_minute: int, now_s: float) -> None:
        """Another rate from now on. It stays as full as it is, and in debt for as long."""
        self._flow(now_s)
        self._level *= per_minute / self.capacity
        self.capacity = float(per_minute)
        self._per_second = per_minute / 60.0

    def _flow(self, now_s: float) -> None:
        passed_s = max(0.0, now_s - self._at_s)
        self._at_s = max(self._at_s, now_s)
        self._level = min(self.capacity, self._level + passed_s * self._per_second)
