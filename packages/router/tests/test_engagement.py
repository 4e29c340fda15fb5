"""Which drafters serve a request: as its client wishes, where they are, and what is learnt from that."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from conftest import Deploy, Deployment, answer, eventually

from paceline.router.arms import PLAIN, Arm
from paceline.v1 import generation_pb2, types_pb2
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.status import from_rpc_error

SEED = 7
SUFFIX = Arm(("suffix",))


async def ids_of(call: Any) -> list[int]:
    return [token async for event in call for token in event.tokens.ids]


def pulls(deployment: Deployment, arm: Arm) -> float:
    (report,) = deployment.router.backend.learner.report("m", [arm])
    return report.stats.pulls


def mean(deployment: Deployment, arm: Arm) -> float:
    (report,) = deployment.router.backend.learner.report("m", [arm])
    return report.stats.mean


async def test_a_segment_is_credited_to_the_arm_that_was_engaged_for_it(deploy: Deploy) -> None:
    deployment = await deploy(segment_tokens=8)
    verifier = await deployment.verifier("v", drafters={"s-1": "suffix"}, stop_at=9)
    running = asyncio.create_task(ids_of(deployment.generate(max_tokens=16)))
    await verifier.stopped.wait()
    await eventually(lambda: verifier.engaged)
    await eventually(lambda: all(task.get_name() != "engage" for task in asyncio.all_tasks()))
    verifier.resume.set()
    assert await running == answer(SEED, 16)
    assert [list(speculation.drafters) for speculation in verifier.engaged] == [["suffix"]]
    assert (mean(deployment, PLAIN), mean(deployment, SUFFIX)) == pytest.approx((1.0, 2.0))


async def test_what_a_client_chooses_is_learnt_from_unless_it_sets_a_budget_of_its_own(deploy: Deploy) -> None:
    deployment = await deploy()
    await deployment.verifier("v", drafters={"s-1": "suffix"})
    await ids_of(deployment.generate(speculation=types_pb2.Speculation(drafters=["s-1"], max_nodes=3)))
    await ids_of(deployment.generate(speculation=types_pb2.Speculation(max_nodes=3)))
    assert (pulls(deployment, SUFFIX), pulls(deployment, PLAIN)) == (0.0, 0.0)
    await ids_of(deployment.generate(speculation=types_pb2.Speculation(drafters=["s-1"])))
    assert pulls(deployment, SUFFIX) > 0.0
    assert pulls(deployment, PLAIN) == 0.0
    await ids_of(deployment.generate(speculation=types_pb2.Speculation(off=True)))
    assert pulls(deployment, PLAIN) > 0.0


async def test_a_request_that_names_drafters_goes_where_they_are(deploy: Deploy) -> None:
    deployment = await deploy()
    without = await deployment.verifier("a")
    having = await deployment.verifier("b", drafters={"s-1": "suffix"})
    await ids_of(deployment.generate(speculation=types_pb2.Speculation(drafters=["suffix"])))
    assert (len(without.requests), len(having.requests)) == (0, 1)


async def test_an_answer_that_has_begun_does_not_end_for_want_of_a_drafter_its_client_named(deploy: Deploy) -> None:
    deployment = await deploy()
    await deployment.verifier("a", drafters={"s-1": "suffix"}, fail_at=10)
    heir = await deployment.verifier("b")
    ids = await ids_of(deployment.generate(speculation=types_pb2.Speculation(drafters=["suffix"])))
    assert ids == answer(SEED, len(ids))
    assert len(heir.requests) == 1
    assert heir.requests[0].speculation.off


async def test_a_named_drafter_that_is_registered_but_not_there_is_refused_as_the_verifier_says(deploy: Deploy) -> None:
    deployment = await deploy()
    verifier = await deployment.verifier("v", drafters={"s-1": "suffix"})
    verifier.drafters.clear()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ids_of(deployment.generate(speculation=types_pb2.Speculation(drafters=["suffix"])))
    error = from_rpc_error(refused.value)
    assert error is not None
    assert (error.reason, error.message) == (Reason.UNKNOWN_DRAFTER, "no drafter 'suffix' here")
    assert len(verifier.requests) == 1


async def test_a_verifier_that_misses_a_drafter_nobody_asked_for_is_not_asked_again(deploy: Deploy) -> None:
    deployment = await deploy()
    verifier = await deployment.verifier("v", refusal=PacelineError(Reason.UNKNOWN_DRAFTER, "nonsense"))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ids_of(deployment.generate())
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert len(verifier.requests) == 1


async def test_after_several_drafters_that_were_gone_no_more_are_tried(deploy: Deploy) -> None:
    deployment = await deploy(policy="fixed")
    verifier = await deployment.verifier("v", drafters={f"id-{index}": f"name-{index}" for index in range(9)})
    verifier.drafters.clear()
    assert await ids_of(deployment.generate()) == answer(SEED, 24)
    assert len(verifier.requests) == 5
    assert verifier.requests[-1].speculation.off


async def test_a_client_that_asks_for_segments_gets_no_outcomes_and_changes_no_segment(deploy: Deploy) -> None:
    deployment = await deploy(segment_tokens=8)
    verifier = await deployment.verifier("v")
    request = generation_pb2.GenerateRequest(text="x", segment_tokens=1)
    kinds = [event.WhichOneof("event") async for event in deployment.stub.Generate(request)]
    assert "outcome" not in kinds
    assert verifier.requests[0].segment_tokens == 8
