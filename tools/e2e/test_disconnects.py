"""64 streams at once, many of whose readers leave at any moment: the others have their text, and places are free."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass

import pytest
from errands import Asked, Door, End, Errand, Known, answers_of, draw_errands
from fleet import ROUTERS, Fleet, fleet_in, until
from http_stream import parts_of
from tiny_target import make_tiny_target

STREAMS = 64
FREE_WITHIN_S = 1.0
SEED = 11


@dataclass(frozen=True)
class Deployment:
    fleet: Fleet
    known: dict[Errand, Known]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    model = make_tiny_target(tmp_path_factory.mktemp("model"))

    async def started(fleet: Fleet) -> dict[Errand, Known]:
        await fleet.start_all()
        errands = draw_errands(random.Random(SEED), 12)
        return await answers_of(errands, ROUTERS[0], fleet.addresses[ROUTERS[0]])

    with fleet_in(tmp_path_factory.mktemp("fleet"), model) as fleet:
        yield Deployment(fleet, asyncio.run(started(fleet)))


async def read_some(http: str, errand: Errand, characters: float, seconds: float) -> str:
    """What came before so many characters or seconds; then it leaves without a word."""
    text = ""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds), aclosing(parts_of(http, "/v1/completions", errand.body())) as parts:
            async for part in parts:
                text += "".join(choice["text"] for choice in part["choices"])
                if len(text) >= characters:
                    break
    return text


async def seconds_until_free(fleet: Fleet) -> float:
    """How long routers and verifiers hold a place for somebody from now on."""
    began_s = time.monotonic()
    await fleet.idle()
    return time.monotonic() - began_s


def test_those_that_stay_have_their_text_and_the_others_places_are_free(
    deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet, known = deployment.fleet, deployment.known
    rng = random.Random(SEED)
    errands = [rng.choice(list(known)) for _ in range(STREAMS)]
    # In the middle of their text, or after a while: then some have not even begun.
    leaving = [
        (rng.uniform(0.0, len(known[errand].text)), 60.0) if rng.random() < 0.6 else (float("inf"), rng.uniform(0, 1.5))
        for errand in errands
    ]
    stays = [rng.random() < 0.4 for _ in range(STREAMS)]
    assert 15 < sum(stays) < STREAMS - 15

    async def one(number: int) -> Asked | str:
        router, errand = ROUTERS[number % 2], errands[number]
        if stays[number]:
            return await Asked(errand, Door.HTTP, router).run(fleet.addresses[router])
        return await read_some(fleet.http(router), errand, *leaving[number])

    async def all_at_once() -> tuple[list[Asked | str], float]:
        return await asyncio.gather(*(one(number) for number in range(STREAMS))), await seconds_until_free(fleet)

    ends, free_s = asyncio.run(all_at_once())
    begun = 0
    for errand, end in zip(errands, ends, strict=True):
        if isinstance(end, Asked):
            assert end.end is End.FINISHED, end.why
            assert not known[errand].difference(end)
        else:
            assert known[errand].text.startswith(end)
            begun += bool(end)
    assert begun > 10
    with capsys.disabled():
        print(f"\n{sum(stays)} streams stayed, {begun} left in the middle; all places free after {free_s:.3f} s")
    assert free_s < FREE_WITHIN_S


def test_places_are_free_when_all_leave_at_once(deployment: Deployment, capsys: pytest.CaptureFixture[str]) -> None:
    fleet = deployment.fleet
    errands = [list(deployment.known)[number % len(deployment.known)] for number in range(STREAMS)]

    async def leave_together() -> tuple[int, float]:
        begun, held = [0] * STREAMS, 0

        async def read(number: int) -> None:
            parts = parts_of(fleet.http(ROUTERS[number % 2]), "/v1/completions", errands[number].body())
            async with aclosing(parts):
                async for _part in parts:
                    begun[number] += 1

        async def under_way() -> bool:
            nonlocal held
            held = await fleet.busy()
            return max(begun) > 10 and held > STREAMS

        readers = [asyncio.create_task(read(number)) for number in range(STREAMS)]
        await until(under_way, "64 streams under way")
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        return held, await seconds_until_free(fleet)

    held, free_s = asyncio.run(leave_together())
    with capsys.disabled():
        print(f"\n{held} places held by routers and verifiers; all free after {free_s:.3f} s")
    assert free_s < FREE_WITHIN_S
