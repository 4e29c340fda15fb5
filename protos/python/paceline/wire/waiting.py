"""Waiting for an event, for so long and no longer."""

from __future__ import annotations

import asyncio


async def happens(event: asyncio.Event, within_s: float | None) -> bool:
    """Whether an event is set within so many seconds; None waits for ever.

    In place of `asyncio.wait_for`, which in Python 3.11 loses a cancellation that comes with the event: whoever
    cancelled a loop that waits like that, and waits for its end, would wait for ever.
    """
    try:
        async with asyncio.timeout(within_s):
            return await event.wait()
    except TimeoutError:
        return False
