"""What a forward pass costs: measured when the model is loaded, kept current while it serves."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

ROW_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128)
ADAPTATION = 0.05


class ForwardCost:
    """Seconds of one forward pass by its number of rows: linear between measured row counts, never decreasing."""

    def __init__(self, rows: Sequence[int], seconds: Sequence[float]) -> None:
        if len(rows) < 2 or len(rows) != len(seconds) or list(rows) != sorted(set(rows)):
            raise ValueError(f"need at least two rising row counts with a time each, got {rows} and {seconds}")
        self.rows = tuple(rows)
        self._seconds = list(seconds)
        self._knots = self._rising()
        self._known: dict[int, float] = {}  # estimates since the last observation

    @property
    def knots(self) -> list[float]:
        """Seconds at each of `rows`, made non-decreasing (a measurement may say otherwise; a longer pass is never
        cheaper)."""
        return self._knots

    def _rising(self) -> list[float]:
        knots: list[float] = []
        for value in self._seconds:
            knots.append(max(value, knots[-1] if knots else 0.0))
        return knots

    def seconds(self, num_rows: int) -> float:
        """Estimate for any positive number of rows; beyond the last knot the last slope goes on."""
        if num_rows not in self._known:
            self._known[num_rows] = self._estimate(num_rows)
        return self._known[num_rows]

    def _estimate(self, num_rows: int) -> float:
        knots = self._knots
        right = min(max(1, bisect_left(self.rows, num_rows)), len(self.rows) - 1)
        left = right - 1
        slope = (knots[right] - knots[left]) / (self.rows[right] - self.rows[left])
        return max(1e-9, knots[left] + slope * (max(num_rows, self.rows[0]) - self.rows[left]))

    @property
    def least_value(self) -> float:
        """Tokens that a further row must promise to be able to pay at all: what it adds to a pass of one row, at
        best, in passes of one row."""
        base, *others = self._knots
        cheapest = min((knot - base) / (rows - self.rows[0]) for rows, knot in zip(self.rows[1:], others, strict=True))
        return cheapest / max(base, 1e-9)

    def observe(self, num_rows: int, seconds: float) -> None:
        """A pass took this long: moves the nearest knot a little by the ratio of measured to expected time."""
        ratio = min(2.0, max(0.5, seconds / self.seconds(num_rows)))
        nearest = min(range(len(self.rows)), key=lambda index: abs(self.rows[index] - num_rows))
        # From the knot, not from the measurement behind it: one that lies below its left neighbour would drift to 0.
        self._seconds[nearest] = self._knots[nearest] * (1.0 + ADAPTATION * (ratio - 1.0))
        self._knots = self._rising()
        self._known.clear()


def measure(forward: Callable[[int], float], repeats: int = 3) -> ForwardCost:
    """Times `forward(num_rows)`, which returns its seconds, at each of ROW_COUNTS; keeps the median of `repeats`."""
    medians = [sorted(forward(rows) for _ in range(repeats))[repeats // 2] for rows in ROW_COUNTS]
    return ForwardCost(ROW_COUNTS, medians)
