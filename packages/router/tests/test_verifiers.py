"""Calls to verifiers and the picture of who is there: channels, requests in flight, the bell, what a failure means."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import Any

import grpc
import pytest
from conftest import DEFAULT_MAX_TOKENS, Deploy, FakeVerifier, answer, eventually, request_of

import paceline.router.verifiers as module
from paceline.router.failures import Verdict, VerifierError, judge
from paceline.router.member import Member, Role
from paceline.router.registry import Registry
from paceline.router.roster import Roster
from paceline.router.verifiers import Verifiers
from paceline.wire.errors import Reason
from paceline.wire.settings import ClientSettings

SEED = 7


async def ids_of(call: Any) -> list[int]:
    return [token async for event in call for token in event.tokens.ids]


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[grpc.aio.Channel]:
    """The channels that were opened to verifiers, in order."""
    channels: list[grpc.aio.Channel] = []
    connect = module.connect

    def recorded(address: str, settings: ClientSettings) -> grpc.aio.Channel:
        channels.append(connect(address, settings))
        return channels[-1]

    monkeypatch.setattr(module, "connect", recorded)
    return channels


def is_closed(channel: grpc.aio.Channel) -> bool:
    return channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN


async def test_closing_the_events_cancels_the_call() -> None:
    verifier = await FakeVerifier("v", stop_at=3).start()
    verifiers = Verifiers(ClientSettings())
    async with asyncio.timeout(5):
        async with aclosing(verifiers.generate(verifier.address, request_of(), None)) as events:
            await anext(events)
            await verifier.stopped.wait()  # where the fake can see that it is cancelled
        await eventually(lambda: verifier.num_cancelled == 1)
    await verifiers.close()
    await verifier.kill()


async def test_a_retired_channel_serves_its_running_calls_and_no_new_ones(dialled: list[Any]) -> None:
    verifier = await FakeVerifier("v", stop_at=3).start()
    verifiers = Verifiers(ClientSettings())
    running = asyncio.create_task(ids_of(verifiers.generate(verifier.address, request_of(), None)))
    await verifier.stopped.wait()
    verifiers.retire(verifier.address)
    verifier.resume.set()
    assert await ids_of(verifiers.generate(verifier.address, request_of(), None)) == await running
    assert len(dialled) == 2
    await eventually(lambda: is_closed(dialled[0]))
    assert not is_closed(dialled[1])
    await verifiers.close()
    assert is_closed(dialled[1])
    await verifier.kill()


async def test_one_channel_serves_all_requests_until_the_verifier_fails(deploy: Deploy, dialled: list[Any]) -> None:
    deployment = await deploy(failover_wait_s=0.0)
    verifier = await deployment.verifier("a")
    for _ in range(3):
        await ids_of(deployment.generate())
    assert len(dialled) == 1
    verifier.fail_at = 5
    with pytest.raises(grpc.aio.AioRpcError):
        await ids_of(deployment.generate())
    verifier.fail_at, verifier.verifier_id = -1, "restarted"
    deployment.announce(verifier)
    assert await ids_of(deployment.generate()) == answer(SEED, DEFAULT_MAX_TOKENS)
    assert len(dialled) == 2


async def test_the_channel_to_a_verifier_whose_lease_ran_out_is_closed(deploy: Deploy, dialled: list[Any]) -> None:
    deployment = await deploy(lease_s=0.5)
    await deployment.verifier("a")
    await ids_of(deployment.generate())
    await eventually(lambda: is_closed(dialled[0]))


async def test_requests_in_flight_spread_over_verifiers_between_announcements(deploy: Deploy) -> None:
    deployment = await deploy()
    verifiers = [await deployment.verifier(name, stop_at=3) for name in "ab"]
    calls = [asyncio.create_task(ids_of(deployment.generate()))]
    await verifiers[0].stopped.wait()
    calls.append(asyncio.create_task(ids_of(deployment.generate())))
    async with asyncio.timeout(5):
        await verifiers[1].stopped.wait()
    for verifier in verifiers:
        verifier.resume.set()
    assert await asyncio.gather(*calls) == [answer(SEED, DEFAULT_MAX_TOKENS)] * 2


async def test_an_announcement_wakes_who_waits_for_one() -> None:
    roster = Roster(Registry(6.0), time.monotonic)
    waiting = asyncio.create_task(roster.announcement(60.0))
    await asyncio.sleep(0)
    assert not waiting.done()
    roster.announce(Member("v", Role.VERIFIER))
    async with asyncio.timeout(5):
        assert await waiting
    assert not await roster.announcement(0.001)


@pytest.mark.parametrize(
    ("code", "reason", "may_drop", "continuing", "verdict"),
    [
        ("UNAVAILABLE", None, True, False, Verdict.LOST),
        ("INTERNAL", Reason.INTERNAL, True, False, Verdict.LOST),
        ("UNAVAILABLE", Reason.DRAINING, True, True, Verdict.LOST),
        ("DEADLINE_EXCEEDED", None, True, False, Verdict.REFUSED),
        ("RESOURCE_EXHAUSTED", None, True, False, Verdict.REFUSED),
        ("RESOURCE_EXHAUSTED", Reason.OVERLOADED, True, False, Verdict.BUSY),
        ("ALREADY_EXISTS", Reason.DUPLICATE_REQUEST, True, False, Verdict.REFUSED),
        ("ALREADY_EXISTS", Reason.DUPLICATE_REQUEST, True, True, Verdict.BUSY),
        ("NOT_FOUND", Reason.UNKNOWN_DRAFTER, True, False, Verdict.DRAFTER_GONE),
        ("NOT_FOUND", Reason.UNKNOWN_DRAFTER, False, False, Verdict.REFUSED),
        ("INVALID_ARGUMENT", Reason.PROMPT_TOO_LONG, True, True, Verdict.REFUSED),
    ],
)
def test_a_failure_means_what_its_reason_says(
    code: str, reason: Reason | None, may_drop: bool, continuing: bool, verdict: Verdict
) -> None:
    error = VerifierError(code, "said", reason)
    assert judge(error, may_drop=may_drop, named=False, continuing=continuing) is verdict


def test_a_named_drafter_that_is_not_there_may_be_elsewhere_until_the_answer_has_begun() -> None:
    error = VerifierError("NOT_FOUND", "said", Reason.UNKNOWN_DRAFTER)
    assert judge(error, may_drop=False, named=True, continuing=False) is Verdict.DRAFTER_ELSEWHERE
    assert judge(error, may_drop=True, named=True, continuing=True) is Verdict.DRAFTER_GONE
    assert judge(error, may_drop=False, named=True, continuing=True) is Verdict.REFUSED
