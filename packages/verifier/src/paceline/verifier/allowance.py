"""How much a drafter may ask for: a token bucket, and what is bounded by one. Pure; times are arguments."""

from __future__ import annotations

from collections import deque

PINGS_PER_S = 10.0
MAX_PINGS = 16  # at once
# What a message costs the event loop, and the share of it that one drafter may have: enough to answer eight sessions of
# a hundred steps a second with two trees each, or of fifty steps with four.
MESSAGE_S = 100e-6
NODE_S = 1.2e-6
MAX_NODES = 256  # more are refused unread
MAX_SHARE = 0.25
MAX_BURST_S = 0.1


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


class Talk:
    """What one drafter may say."""

    def __init__(self) -> None:
        self.pongs: deque[int] = deque(maxlen=MAX_PINGS)
        self._pings = Allowance(PINGS_PER_S, MAX_PINGS)
        self._share = Allowance(MAX_SHARE, MAX_BURST_S)

    def ping(self, now_s: float, nonce: int) -> bool:
        """Whether it is answered: the nonce is in `pongs` then. Not if there were too many lately."""
        answered = self._pings.take(now_s)
        if answered:
            self.pongs.append(nonce)
        return answered

    def pause_s(self, now_s: float, num_nodes: int) -> float:
        """For how long nothing more should be read after a message with so many nodes; mostly 0.

        To read is what a message costs. As long as nothing is read, gRPC holds the drafter back, and neither the steps
        nor other drafters wait for the event loop.
        """
        return self._share.overdraw(now_s, MESSAGE_S + NODE_S * min(num_nodes, MAX_NODES))
