"""Whether there is still somebody at the other end of a call. Pure: whoever has a clock ticks."""

from __future__ import annotations

from collections.abc import Callable

from paceline.router.failures import VerifierError
from paceline.wire.errors import Reason

TICKS = 4


class Watch:
    """Counts the time in which a verifier says nothing, neither to a request nor, by announcements, to the router.

    A process that is frozen keeps its connections, and its queue is silent too. But a verifier that is well announces
    itself a few times a lease, and takes a request up at once, before it waits for a session. Time is counted in
    ticks, so that a router that was itself frozen doesn't blame others. One that only may be lost is left when there is
    somebody to go to; else it is waited for as long as its connection holds (keepalive, `paceline.wire.channel`).

    Args:
        lease_s: silence after which it is lost.
        accept_s: after which a verifier that announces itself must have taken the request up.
        announced_s: when it announced itself last, None if its lease ran out.
        elsewhere: whether another could take over.
    """

    def __init__(
        self,
        lease_s: float,
        accept_s: float,
        announced_s: Callable[[], float | None],
        elsewhere: Callable[[], bool],
    ) -> None:
        self.tick_s = min(lease_s, accept_s) / TICKS
        self._lease_s = lease_s
        self._accept_s = accept_s
        self._announced_s = announced_s
        self._elsewhere = elsewhere
        self._last_s = announced_s()
        self._accepted = False
        self._listening = False
        self._silent = 0
        self._waited = 0

    def listens(self) -> None:
        """From now on the verifier is expected to say something."""
        self._listening = True

    def heard(self) -> None:
        """It said something, and need not say more until it is listened to again."""
        self._listening = False
        self._accepted = True
        self._silent = 0

    def tick(self) -> VerifierError | None:
        """After each `tick_s`: what is wrong, if something is."""
        announced_s = self._announced_s()
        announced = announced_s is not None and announced_s != self._last_s
        self._last_s = announced_s
        if not self._listening:
            return None
        self._silent = 0 if announced else self._silent + 1
        self._waited += 1
        # The first tick came at any time after it was listened to.
        if (self._silent - 1) * self.tick_s >= self._lease_s and self._elsewhere():
            return VerifierError("UNAVAILABLE", f"it said nothing and didn't announce itself for {self._lease_s:g} s")
        if not self._accepted and (self._waited - 1) * self.tick_s >= self._accept_s:
            why = f"it did not take the request up within {self._accept_s:g} s"
            return VerifierError("RESOURCE_EXHAUSTED", why, Reason.OVERLOADED)
        return None
