"""A late first token with real servers behind the router: the same text, one place, and nothing left of who lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from conftest import DEFAULT_MAX_TOKENS, Deploy, Deployment, FakeVerifier, answer, eventually
from http_doors import asked

from paceline.router.arms import PLAIN
from paceline.router.finding import Finding
from paceline.router.member import Member
from paceline.v1 import generation_pb2
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.status import from_rpc_error

SEED = 7
LATE = {"hedge_after_s": 0.05, "hedge_share": 1.0}
NEVER = {"hedge_after_s": 30.0, "hedge_share": 1.0}


async def ids_of(call: Any) -> list[int]:
    return [token async for event in call for token in event.tokens.ids]


async def pair(deployment: Deployment, **first: Any) -> tuple[FakeVerifier, FakeVerifier]:
    """The first of them gets the request."""
    return await deployment.verifier("a", **first), await deployment.verifier("b")


def in_flight(deployment: Deployment, *verifiers: FakeVerifier) -> list[float]:
    return [deployment.router.backend.roster.occupancy(one.member()) * one.capacity for one in verifiers]


async def test_the_second_verifier_gives_the_same_text_and_the_first_is_cancelled(deploy: Deploy) -> None:
    deployment = await deploy(**LATE)
    slow, quick = await pair(deployment, stop_at=0)
    events = [event async for event in deployment.generate()]
    assert [token for event in events for token in event.tokens.ids] == answer(SEED, DEFAULT_MAX_TOKENS)
    assert [event.WhichOneof("event") for event in events].count("started") == 1
    (first,), (second,) = slow.requests, quick.requests
    assert (first.request_id, first.sampling.seed) == (second.request_id, second.sampling.seed)
    await eventually(lambda: slow.num_cancelled == 1)
    assert in_flight(deployment, slow, quick) == [0, 0]
    hedging = deployment.router.backend.hedging
    assert (hedging.num_sent, hedging.num_won) == (1, 1)
    assert deployment.router.backend.roster.available() == [slow.member(), quick.member()]


@pytest.mark.parametrize("at", ["stop_at", "stop_after_step_at"])
async def test_steps_are_those_of_the_verifier_whose_tokens_are_relayed(deploy: Deploy, at: str) -> None:
    deployment = await deploy(**LATE)
    slow, quick = await pair(deployment, rows=1, **{at: 0})
    quick.rows = 2
    events = [event async for event in deployment.generate(steps=generation_pb2.StepsRequest())]
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds == ["started", *["step", "tokens"] * DEFAULT_MAX_TOKENS, "finished"]
    assert {event.step.rows for event in events if event.HasField("step")} == {2}
    await eventually(lambda: slow.num_cancelled == 1)


async def test_both_count_until_one_has_a_token_and_then_only_that_one(deploy: Deploy) -> None:
    deployment = await deploy(**LATE)
    first, second = await pair(deployment, stop_at=0)
    second.stop_at = 0
    running = asyncio.create_task(ids_of(deployment.generate()))
    await second.stopped.wait()
    assert in_flight(deployment, first, second) == [1, 1]
    second.stop_at = 5
    second.stopped.clear()
    second.resume.set()
    second.resume.clear()
    await second.stopped.wait()
    await eventually(lambda: in_flight(deployment, first, second) == [0, 1])
    second.resume.set()
    assert await running == answer(SEED, DEFAULT_MAX_TOKENS)
    assert in_flight(deployment, first, second) == [0, 0]


async def test_a_first_token_in_time_costs_nobody_else_anything(deploy: Deploy) -> None:
    deployment = await deploy(**NEVER)
    _, other = await pair(deployment)
    assert await ids_of(deployment.generate()) == answer(SEED, DEFAULT_MAX_TOKENS)
    assert other.requests == []


async def test_off_is_off(deploy: Deploy) -> None:
    deployment = await deploy()
    slow, other = await pair(deployment, stop_at=0)
    running = asyncio.create_task(ids_of(deployment.generate()))
    await slow.stopped.wait()
    await asyncio.sleep(0.1)
    assert other.requests == []
    slow.resume.set()
    assert await running == answer(SEED, DEFAULT_MAX_TOKENS)


FULL: dict[str, Callable[[FakeVerifier], dict[str, Any]]] = {
    "full": lambda verifier: {"load": verifier.capacity},
    "another model": lambda verifier: {"model": "n"},
    "another tokenizer": lambda verifier: {"tokenizer_hash": "other"},
    "draining": lambda verifier: {"draining": True},
}


@pytest.mark.parametrize("why", FULL)
async def test_nobody_is_asked_who_could_not_do_it_at_once(
    deploy: Deploy, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Member | None] = []
    another = Finding.another

    def recorded(finding: Finding, beside: Member) -> Member | None:
        found.append(another(finding, beside))
        return found[-1]

    monkeypatch.setattr(Finding, "another", recorded)
    deployment = await deploy(**LATE)
    slow = await deployment.verifier("a", stop_at=0)
    other = await deployment.verifier("b", announced=False)
    deployment.announce(other, **FULL[why](other))
    running = asyncio.create_task(ids_of(deployment.generate(model="m")))
    await eventually(lambda: found)
    assert found == [None]
    slow.resume.set()
    assert await running == answer(SEED, DEFAULT_MAX_TOKENS)
    assert other.requests == []


async def test_a_client_that_leaves_while_two_are_asked_frees_both(deploy: Deploy) -> None:
    deployment = await deploy(**LATE)
    first, second = await pair(deployment, stop_at=0)
    second.stop_at = 0
    call = deployment.generate()
    await call.read()
    await second.stopped.wait()
    call.cancel()
    await eventually(lambda: (first.num_cancelled, second.num_cancelled) == (1, 1))
    await eventually(lambda: deployment.router.admission.num_active == 0)
    assert in_flight(deployment, first, second) == [0, 0]


@pytest.mark.parametrize("loses", ["first", "second"])
async def test_one_that_is_lost_leaves_the_request_to_the_other(deploy: Deploy, loses: str) -> None:
    deployment = await deploy(**LATE)
    first, second = await pair(deployment, stop_at=0)
    second.stop_at = 0
    running = asyncio.create_task(ids_of(deployment.generate()))
    await second.stopped.wait()
    lost, other = (first, second) if loses == "first" else (second, first)
    await lost.kill()
    await eventually(lambda: len(deployment.router.backend.roster.available()) == 1)
    other.resume.set()
    assert await running == answer(SEED, DEFAULT_MAX_TOKENS)
    assert (len(first.requests), len(second.requests)) == (1, 1)


async def test_when_both_are_lost_a_third_goes_on(deploy: Deploy) -> None:
    deployment = await deploy(**LATE)
    first, second = await pair(deployment, stop_at=0)
    second.stop_at = 0
    running = asyncio.create_task(ids_of(deployment.generate()))
    await second.stopped.wait()
    third = await deployment.verifier("c")
    await asyncio.gather(first.kill(), second.kill())
    assert await running == answer(SEED, DEFAULT_MAX_TOKENS)
    assert len(third.requests) == 1


async def test_a_refusal_of_the_second_is_not_the_request_s_end(deploy: Deploy) -> None:
    deployment = await deploy(**LATE)
    first, second = await pair(deployment, stop_at=0)
    second.refusal = PacelineError(Reason.PROMPT_TOO_LONG, "the prompt has 9 tokens, 8 fit")
    running = asyncio.create_task(ids_of(deployment.generate()))
    await eventually(lambda: second.num_ended == 1)
    assert not running.done()
    first.resume.set()
    assert await running == answer(SEED, DEFAULT_MAX_TOKENS)


async def test_a_refusal_of_the_first_ends_it_and_the_second_stops(deploy: Deploy) -> None:
    deployment = await deploy(**LATE)
    first, second = await pair(deployment, stop_at=0)
    second.stop_at = first.fail_at = 0
    first.failure = PacelineError(Reason.PROMPT_TOO_LONG, "the prompt has 9 tokens, 8 fit")
    running = asyncio.create_task(ids_of(deployment.generate()))
    await second.stopped.wait()
    first.resume.set()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running
    error = from_rpc_error(caught.value)
    assert error is not None
    assert error.reason is Reason.PROMPT_TOO_LONG
    await eventually(lambda: second.num_cancelled == 1)
    assert in_flight(deployment, first, second) == [0, 0]


async def test_the_winner_s_refusal_is_the_request_s_end(deploy: Deploy) -> None:
    deployment = await deploy(**LATE)
    first, second = await pair(deployment, stop_at=0)
    second.fail_at, second.failure = 5, PacelineError(Reason.OUT_OF_RANGE, "no")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ids_of(deployment.generate())
    error = from_rpc_error(caught.value)
    assert error is not None
    assert error.reason is Reason.OUT_OF_RANGE
    assert (len(first.requests), len(second.requests)) == (1, 1)


async def test_only_the_winner_teaches(deploy: Deploy) -> None:
    deployment = await deploy(**LATE, policy="fixed", fixed_arm="none")
    await pair(deployment, stop_at=0)
    await ids_of(deployment.generate(max_tokens=8))
    (report,) = deployment.router.backend.learner.report("m", [PLAIN])
    assert 1.9 < report.pulls <= 2.0  # segments of 4 tokens, each once, the older one discounted


async def test_failover_after_a_hedge_goes_on_with_the_text(deploy: Deploy) -> None:
    deployment = await deploy(**LATE)
    first, second = await pair(deployment, stop_at=0)
    second.fail_at = 10
    third = await deployment.verifier("c", announced=False)
    running = asyncio.create_task(ids_of(deployment.generate()))
    await eventually(lambda: first.num_cancelled == 1)
    first.stop_at = -1
    deployment.announce(third)
    assert await running == answer(SEED, DEFAULT_MAX_TOKENS)
    later = [*first.requests[1:], *third.requests]
    assert [list(request.committed.ids) for request in later] == [answer(SEED, 10)]


async def test_many_at_once_with_slow_and_failing_verifiers_all_get_their_text(deploy: Deploy) -> None:
    deployment = await deploy(hedge_after_s=0.02, hedge_share=0.5)
    verifiers = [await deployment.verifier(name, capacity=16, token_s=0.002) for name in "abc"]
    verifiers[0].stop_at = 0
    verifiers[1].fail_at, verifiers[1].failure = 6, PacelineError(Reason.OVERLOADED, "full", retry_after_s=1.0)
    running = [asyncio.create_task(ids_of(deployment.generate(seed=seed))) for seed in range(24)]
    await verifiers[0].stopped.wait()
    await eventually(lambda: deployment.router.backend.hedging.num_sent >= 5)
    verifiers[0].stop_at = -1
    verifiers[0].resume.set()
    assert await asyncio.gather(*running) == [answer(seed, DEFAULT_MAX_TOKENS) for seed in range(24)]
    assert in_flight(deployment, *verifiers) == [0, 0, 0]
    await eventually(lambda: all(one.num_ended == len(one.requests) for one in verifiers))


async def test_second_verifiers_are_counted(deploy: Deploy) -> None:
    deployment = await deploy(**LATE, http="127.0.0.1:0")
    await pair(deployment, stop_at=0)
    await ids_of(deployment.generate())
    lines = (await asked(deployment, "GET", "/metrics")).body.decode().splitlines()
    assert 'paceline:router_hedges_total{result="sent"} 1.0' in lines
    assert 'paceline:router_hedges_total{result="won"} 1.0' in lines
