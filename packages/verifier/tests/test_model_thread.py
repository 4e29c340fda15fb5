"""One call at a time, in order; what a call raises is raised where it is awaited."""

from __future__ import annotations

import asyncio
import threading

import pytest

from paceline.verifier.model_thread import ModelThread


@pytest.fixture
def thread():
    thread = ModelThread()
    yield thread
    thread.close()


async def test_calls_run_in_order_in_one_other_thread(thread):
    seen: list[int] = []

    def work(number: int) -> int:
        seen.append(number)
        return threading.get_ident()

    idents = await asyncio.gather(*(thread.call(work, number) for number in range(20)))
    assert seen == list(range(20))
    assert len(set(idents)) == 1
    assert idents[0] != threading.get_ident()


async def test_an_error_reaches_who_awaits_and_the_next_call_runs(thread):
    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await thread.call(fail)
    assert await thread.call(lambda: 7) == 7


async def test_a_call_that_nobody_awaits_any_more_harms_nobody(thread):
    gate = threading.Event()
    first = thread.call(gate.wait, 5.0)
    first.cancel()
    second = thread.call(lambda: "done")
    gate.set()
    assert await second == "done"


def test_results_for_a_loop_that_is_gone_are_dropped(thread):
    gate = threading.Event()

    async def leave() -> None:
        thread.call(gate.wait, 5.0)

    asyncio.run(leave())
    gate.set()

    async def again() -> int:
        return await thread.call(lambda: 3)

    assert asyncio.run(again()) == 3
