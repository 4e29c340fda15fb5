"""A second verifier for a request whose first token is late; who has one first goes on.

The hedged requests of "The Tail at Scale" (Dean and Barroso, 2013). Both verifiers give the same text, so it doesn't
matter to the client who won, only how long it took. The price is the work of the one that lost, so there is a budget: a
share of all requests. More would only move the queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from typing import TypeVar

T = TypeVar("T")

MOST_SAVED = 8.0


class Budget:
    """How many requests may have a second attempt: a share of them, and what wasn't used before, up to MOST_SAVED.

    So of any n requests in a row at most share · n + MOST_SAVED have one.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._saved = 1.0

    @property
    def enough(self) -> bool:
        return self._saved >= 1.0

    def earn(self) -> None:
        """A request came."""
        self._saved = min(MOST_SAVED, self._saved + self._share)

    def spend(self) -> None:
        """It has a second attempt."""
        self._saved -= 1.0


class Hedging:
    """Second attempts of all requests.

    Args:
        after_s: without a first token after which a second verifier is asked; 0 for never.
        share: of the requests that may have a second attempt. See Budget.

    Attributes:
        num_sent: second attempts. num_won: those of them that had the first token.
    """

    def __init__(self, after_s: float, share: float) -> None:
        self.num_sent = 0
        self.num_won = 0
        self._after_s = after_s
        self._budget = Budget(share)
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def on(self) -> bool:
        return self._after_s > 0.0

    def race(
        self,
        first: AsyncGenerator[T],
        second: Callable[[], AsyncGenerator[T] | None],
        decides: Callable[[T], bool],
    ) -> AsyncGenerator[T]:
        """What one request gets: items of both streams, and from the first that decides on only those of its stream.
        The other is cancelled then. A stream may end before: then the other goes on alone.

        Args:
            first: the request's stream.
            second: opens another, or has none.
            decides: which item does.

        Raises:
            whatever a stream raises before it is decided, and its stream after that.
        """
        self._budget.earn()
        return self._race(first, second, decides)

    async def _race(
        self,
        first: AsyncGenerator[T],
        second: Callable[[], AsyncGenerator[T] | None],
        decides: Callable[[T], bool],
    ) -> AsyncGenerator[T]:
        loop = asyncio.get_running_loop()
        asks_s: float | None = loop.time() + self._after_s
        streams = [first]
        steps = {asyncio.create_task(_step(first)): first}
        try:
            while steps:
                timeout_s = None if asks_s is None else max(0.0, asks_s - loop.time())
                done, _ = await asyncio.wait(steps, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    asks_s = None
                    if (other := self._opened(second)) is not None:
                        streams.append(other)
                        steps[asyncio.create_task(_step(other))] = other
                for step in sorted(done, key=lambda one: streams.index(steps[one])):
                    stream = steps.pop(step)
                    for item in step.result():
                        if decides(item):
                            self.num_won += stream is not first
                            streams.remove(stream)
                            self._close(steps, streams)
                            async with aclosing(stream):
                                yield item
                                async for following in stream:
                                    yield following
                            return
                        yield item
                        steps[asyncio.create_task(_step(stream))] = stream
        finally:
            # The HTTP server's tasks may be cancelled again at every await until their end; closing goes on then.
            await asyncio.shield(self._close(steps, streams))

    def _opened(self, second: Callable[[], AsyncGenerator[T] | None]) -> AsyncGenerator[T] | None:
        stream = second() if self._budget.enough else None
        if stream is not None:
            self._budget.spend()
            self.num_sent += 1
        return stream

    def _close(
        self, steps: Iterable[asyncio.Task[list[T]]], streams: Iterable[AsyncGenerator[T]]
    ) -> asyncio.Task[None]:
        closing = asyncio.create_task(_closed(list(steps), list(streams)), name="hedge closing")
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        return closing


async def _step(stream: AsyncGenerator[T]) -> list[T]:
    """The next item, or none at the end."""
    async for item in stream:
        return [item]
    return []


async def _closed(steps: list[asyncio.Task[list[T]]], streams: list[AsyncGenerator[T]]) -> None:
    for step in steps:
        step.cancel()
    await asyncio.gather(*steps, return_exceptions=True)
    await asyncio.gather(*(stream.aclose() for stream in streams), return_exceptions=True)
