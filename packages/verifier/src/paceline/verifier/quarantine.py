"""Who may draft: a drafter that keeps sending what can't be used is ignored for a while, longer each time.

The standing belongs to the drafter's id, not to its stream, so dialling again doesn't wash it clean.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field

MAX_REFUSALS = 8  # this many within REFUSAL_WINDOW_S
REFUSAL_WINDOW_S = 10.0
FIRST_QUARANTINE_S = 2.0
MAX_QUARANTINE_S = 300.0
MAX_STANDINGS = 4096


@dataclass(slots=True)
class Standing:
    """How one drafter has behaved. Times are seconds on any clock that only goes forward."""

    until_s: float = 0.0
    next_quarantine_s: float = FIRST_QUARANTINE_S
    _refused_at: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_REFUSALS))

    def quarantined(self, now_s: float) -> bool:
        return now_s < self.until_s

    def refused(self, now_s: float) -> float:
        """Counts a message that could not be used; returns for how long that quarantines the drafter, 0 if not."""
        self._refused_at.append(now_s)
        if len(self._refused_at) < MAX_REFUSALS or now_s - self._refused_at[0] >= REFUSAL_WINDOW_S:
            return 0.0
        self._refused_at.clear()
        seconds = self.next_quarantine_s
        self.until_s = now_s + seconds
        self.next_quarantine_s = min(MAX_QUARANTINE_S, 2 * seconds)
        return seconds


class Standings:
    """Those of all drafters seen lately, by id."""

    def __init__(self) -> None:
        self._by_id: OrderedDict[str, Standing] = OrderedDict()

    def of(self, drafter_id: str) -> Standing:
        standing = self._by_id.setdefault(drafter_id, Standing())
        self._by_id.move_to_end(drafter_id)
        while len(self._by_id) > MAX_STANDINGS:
            self._by_id.popitem(last=False)
        return standing
