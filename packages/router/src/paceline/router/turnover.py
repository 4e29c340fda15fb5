"""When it pays to come back: how soon a place becomes free. Pure; times are arguments."""

from __future__ import annotations

UNKNOWN_S = 1.0
SHORTEST_S = 0.25
LONGEST_S = 60.0
WEIGHT = 0.2  # of the request that left last in what requests are taken to last


class Turnover:
    """Requests that come and go, and those that found no place.

    If n requests last t seconds each, one leaves every t / n seconds (Little's law), and lets one in of those that were
    turned away before.
    """

    def __init__(self) -> None:
        self._num_present = 0
        self._num_turned_away = 0
        self._stay_s: float | None = None

    def came(self) -> None:
        self._num_present += 1

    def left(self, stay_s: float | None) -> None:
        """One left after so many seconds; None if it was refused, and so never really there."""
        self._num_present -= 1
        if stay_s is None:
            return
        self._num_turned_away = max(0, self._num_turned_away - 1)
        self._stay_s = stay_s if self._stay_s is None else (1.0 - WEIGHT) * self._stay_s + WEIGHT * stay_s

    def turned_away(self) -> float:
        """Seconds after which one that finds no place now had better try again: it comes after those before it."""
        if self._stay_s is None or self._num_present <= 0:
            return UNKNOWN_S
        self._num_turned_away += 1
        wait_s = self._stay_s * self._num_turned_away / self._num_present
        return min(max(wait_s, SHORTEST_S), LONGEST_S)
