"""Waiting for an event ends with it, with time, or with a cancellation, whichever comes first or at once."""

from __future__ import annotations

import asyncio

import pytest

from paceline.wire.waiting import happens


async def test_it_says_whether_the_event_happened() -> None:
    event = asyncio.Event()
    assert not await happens(event, 0.0)
    assert not await happens(event, 0.01)
    asyncio.get_running_loop().call_soon(event.set)
    assert await happens(event, 30.0)
    assert await happens(event, None)


@pytest.mark.parametrize("turns", range(4))
async def test_a_cancellation_that_comes_with_the_event_is_not_lost(turns: int) -> None:
    event = asyncio.Event()

    async def loop() -> None:
        while True:
            await happens(event, 30.0)
            event.clear()

    looping = asyncio.create_task(loop())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    event.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    looping.cancel()
    done, _pending = await asyncio.wait([looping], timeout=5.0)
    assert done
    assert looping.cancelled()
