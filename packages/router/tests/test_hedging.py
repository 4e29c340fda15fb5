"""The race of two streams: the first to decide goes on alone, and nothing is left of the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest
from conftest import DEADLINE_S, eventually
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.router.hedging import MOST_SAVED, Budget, Hedging


class Stream:
    """Items that come when a test says so; an exception is raised, None ends it."""

    def __init__(self, *items: object) -> None:
        self.queue: asyncio.Queue[object] = asyncio.Queue()
        self.opened = False
        self.closed = False
        for item in items:
            self.queue.put_nowait(item)

    async def items(self) -> AsyncGenerator[object]:
        self.opened = True
        try:
            while (item := await self.queue.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            await asyncio.sleep(0)  # closing takes a moment, and must be waited for
            self.closed = True


def race(first: Stream, second: Stream | None, after_s: float = 0.001, share: float = 1.0) -> AsyncGenerator[object]:
    def opened() -> AsyncGenerator[object] | None:
        return second.items() if second is not None else None

    return Hedging(after_s, share).race(first.items(), opened, lambda item: isinstance(item, int))


async def test_the_first_to_decide_goes_on_alone_and_the_other_is_closed_at_once() -> None:
    first, second = Stream("started"), Stream(1, 2)
    async with asyncio.timeout(DEADLINE_S), aclosing(race(first, second)) as items:
        assert [await anext(items) for _ in range(2)] == ["started", 1]
        await eventually(lambda: first.closed)
        first.queue.put_nowait(7)
        second.queue.put_nowait(None)
        assert [item async for item in items] == [2]
    assert second.closed


async def test_one_that_is_in_time_has_no_second() -> None:
    first, second = Stream(1, None), Stream(2)
    assert [item async for item in race(first, second, after_s=30.0)] == [1]
    assert second.queue.qsize() == 1


async def test_without_a_second_the_first_goes_on() -> None:
    first = Stream("started")
    items = race(first, None)
    assert await anext(items) == "started"
    going_on = asyncio.ensure_future(anext(items))
    await asyncio.sleep(0.01)
    first.queue.put_nowait(1)
    async with asyncio.timeout(DEADLINE_S):
        assert await going_on == 1
    await items.aclose()
    assert first.closed


@pytest.mark.parametrize("ends", ["first", "second"])
async def test_one_that_ends_undecided_leaves_it_to_the_other(ends: str) -> None:
    first, second = Stream("started"), Stream("second started")
    items = race(first, second)
    async with asyncio.timeout(DEADLINE_S):
        assert [await anext(items), await anext(items)] == ["started", "second started"]
        (first if ends == "first" else second).queue.put_nowait(None)
        for item in (1, 2, None):
            (second if ends == "first" else first).queue.put_nowait(item)
        assert [item async for item in items] == [1, 2]
    assert first.closed
    assert second.closed


async def test_when_both_end_undecided_it_is_over() -> None:
    first, second = Stream("started"), Stream("second", None)
    items = race(first, second)
    async with asyncio.timeout(DEADLINE_S):
        assert [await anext(items), await anext(items)] == ["started", "second"]
        first.queue.put_nowait(None)
        assert [item async for item in items] == []
    assert first.closed
    assert second.closed


@pytest.mark.parametrize("fails", ["first", "second"])
async def test_what_one_raises_ends_the_race_and_closes_the_other(fails: str) -> None:
    first, second = Stream("started"), Stream("second started")
    items = race(first, second)
    async with asyncio.timeout(DEADLINE_S):
        assert [await anext(items), await anext(items)] == ["started", "second started"]
        (first if fails == "first" else second).queue.put_nowait(KeyError("refused"))
        with pytest.raises(KeyError):
            await anext(items)
    assert first.closed
    assert second.closed


async def test_cancelling_the_race_closes_both() -> None:
    first, second = Stream(), Stream()

    async def consume() -> None:
        async with aclosing(race(first, second)) as items:
            async for _ in items:
                pass

    racing = asyncio.create_task(consume())
    await eventually(lambda: second.opened)
    racing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await racing
    await eventually(lambda: first.closed and second.closed)


@settings(deadline=None)
@given(st.lists(st.booleans(), max_size=300), st.sampled_from([0.01, 0.05, 0.5, 1.0]))
def test_of_any_requests_in_a_row_no_more_than_the_share_and_what_was_saved_have_a_second(
    late: list[bool], share: float
) -> None:
    budget, sent = Budget(share), [0]
    for is_late in late:
        budget.earn()
        spends = is_late and budget.enough
        if spends:
            budget.spend()
        sent.append(sent[-1] + spends)
    for begin, before in enumerate(sent):
        for end in range(begin, len(sent), 17):
            assert sent[end] - before <= share * (end - begin) + MOST_SAVED + 1e-6
    assert sent[-1] <= 1 + share * len(late) + 1e-6


async def test_without_budget_there_is_no_second() -> None:
    hedging, seconds = Hedging(0.001, 0.01), [Stream("second") for _ in range(2)]
    first = [Stream("started") for _ in range(2)]
    races = [
        hedging.race(one.items(), other.items, lambda item: isinstance(item, int))
        for one, other in zip(first, seconds, strict=True)
    ]
    async with asyncio.timeout(DEADLINE_S):
        assert [await anext(races[0]) for _ in range(2)] == ["started", "second"]
        assert await anext(races[1]) == "started"
        going_on = asyncio.ensure_future(anext(races[1]))
        await asyncio.sleep(0.02)
        first[1].queue.put_nowait(1)
        assert await going_on == 1
        for one in races:
            await one.aclose()
    assert hedging.num_sent == 1
