"""Which arm a segment's outcome says something about, when arms change while tokens stream."""

from __future__ import annotations

from paceline.router.arms import Arm

LATE_SHARE = 0.25


class Attribution:
    """Follows which arm serves one request at one verifier.

    A change is asked for when a segment ends and takes effect some tokens into the next. Within its first
    quarter that is no matter and the segment counts for the new arm; a later change makes it a mixture, which
    counts for none.

    Args:
        arm: in force at the start.
        segment_tokens: length of a segment.
    """

    def __init__(self, arm: Arm, segment_tokens: int) -> None:
        self.arm = arm
        self._late_tokens = LATE_SHARE * segment_tokens
        self._tokens = 0
        self._mixed = False

    def committed(self, num_tokens: int) -> None:
        """Tokens came."""
        self._tokens += num_tokens

    def changed(self, arm: Arm) -> None:
        """The verifier confirmed that another arm is in force."""
        if arm != self.arm:
            self._mixed = self._mixed or self._tokens > self._late_tokens
            self.arm = arm

    def segment_ended(self) -> Arm | None:
        """The arm that the segment counts for, None for a mixture; the next segment begins."""
        credited = None if self._mixed else self.arm
        self._mixed = False
        self._tokens = 0
        return credited
