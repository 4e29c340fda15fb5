"""Which drafters serve a request: as its client wishes, where they are, and what is learnt from that."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest
from conftest import Deploy, Deployment, answer, eventually

from paceline.router.arms import PLAIN, Arm
from paceline.router.context import FEATURES
from paceline.router.convert import member_to_proto
from paceline.router.member import Member, Role
from paceline.v1 import generation_pb2, router_pb2, types_pb2
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.status import from_rpc_error

SEED = 7
SUFFIX = Arm(("suffix",))


async def ids_of(call: Any) -> list[int]:
    return [token async for event in call for token in event.tokens.ids]


def pulls(deployment: Deployment, arm: Arm) -> float:
    (report,) = deployment.router.backend.learner.report("m", [arm])
    return report.pulls


def mean(deployment: Deployment, arm: Arm) -> float:
    (report,) = deployment.router.backend.learner.report("m", [arm])
    return report.mean


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


@pytest.mark.parametrize(("fixed_arm", "expected"), [("suffix", (1.0, 0.25)), ("none", (0.0, 0.0))])
async def test_later_segments_are_chosen_for_knowing_what_drafters_had_right_in_earlier_ones(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch, fixed_arm: str, expected: tuple[float, float]
) -> None:
    deployment = await deploy(policy="fixed", fixed_arm=fixed_arm, segment_tokens=8)
    await deployment.verifier("v", drafters={"s-1": "suffix"}, tokens_per_step=2)
    learner = deployment.router.backend.learner
    choose, contexts = learner.choose, []

    def noted(model: str, arms: Any, context: tuple[float, ...]) -> Any:
        contexts.append(dict(zip(FEATURES, context, strict=True)))
        return choose(model, arms, context)

    monkeypatch.setattr(learner, "choose", noted)
    await ids_of(deployment.generate(max_tokens=24))
    assert [(context["seen"], context["accepted"]) for context in contexts[:2]] == [(0.0, 0.0), expected]


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


def own_drafter(deployment: Deployment, drafter_id: str = "alice-1", name: str = "suffix") -> None:
    """Announces itself, as somebody's own."""
    deployment.router.backend.roster.announce(Member(drafter_id, Role.DRAFTER, name=name, own=True))


async def test_somebodys_own_drafter_is_never_chosen_and_no_arm(deploy: Deploy) -> None:
    deployment = await deploy(policy="fixed")
    verifier = await deployment.verifier("v", drafters={"r-1": "recycling", "alice-1": "alices"})
    own_drafter(deployment, name="alices")
    await ids_of(deployment.generate())
    assert [list(request.speculation.drafters) for request in verifier.requests] == [["recycling"]]
    status = await deployment.stub.GetStatus(router_pb2.GetStatusRequest())
    assert [list(arm.drafters) for arm in status.arms] == [[], ["recycling"]]
    assert {member.id: member.own for member in status.members if member.role == router_pb2.ROLE_DRAFTER} == {
        "alice-1": True,
        "r-1": False,
    }


@pytest.mark.parametrize("announced", [True, False])
async def test_a_request_that_names_its_own_drafter_beside_others_gets_them_and_teaches_nothing(
    deploy: Deploy, announced: bool
) -> None:
    deployment = await deploy()
    without = await deployment.verifier("a", drafters={"s-2": "suffix"})
    having = await deployment.verifier("b", drafters={"s-1": "suffix"})
    having.drafters["alice-1"] = "suffix"
    roster = deployment.router.backend.roster
    roster.announce(having.member())  # the drafter announced itself to the verifier alone
    if announced:
        own_drafter(deployment)
    for named in (["alice-1"], ["alice-1", "suffix"], ["s-1", "alice-1"]):
        await ids_of(deployment.generate(speculation=types_pb2.Speculation(drafters=named)))
        assert list(having.requests[-1].speculation.drafters) == named
    assert (len(without.requests), len(having.requests)) == (0, 3)
    assert (pulls(deployment, SUFFIX), pulls(deployment, PLAIN)) == (0.0, 0.0)


async def test_an_own_drafter_that_only_its_verifier_knows_of_is_found_there(deploy: Deploy) -> None:
    deployment = await deploy()
    verifiers = [await deployment.verifier(name) for name in "abc"]
    verifiers[2].drafters["alice-1"] = "alices"  # connected a moment ago: nothing was announced yet
    ids = await ids_of(deployment.generate(speculation=types_pb2.Speculation(drafters=["alice-1"])))
    assert ids == answer(SEED, len(ids))
    assert [len(verifier.requests) for verifier in verifiers] == [1, 1, 1]


async def test_a_verifier_that_has_the_named_drafter_and_is_busy_is_not_passed_over_for_one_that_has_not(
    deploy: Deploy,
) -> None:
    deployment = await deploy()
    full = PacelineError(Reason.OVERLOADED, "64 requests are waiting", retry_after_s=1.0)
    await deployment.verifier("a", drafters={"s-1": "suffix"}, refusal=full)
    without = await deployment.verifier("b")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ids_of(deployment.generate(speculation=types_pb2.Speculation(drafters=["suffix"])))
    error = from_rpc_error(refused.value)
    assert error is not None
    assert error.reason is Reason.OVERLOADED
    assert without.requests == []


async def test_an_answer_goes_on_with_the_own_drafter_where_it_is_connected_and_without_it_where_not(
    deploy: Deploy,
) -> None:
    deployment = await deploy()
    first = await deployment.verifier("b", fail_at=10)
    heir = await deployment.verifier("c", fail_at=15)
    last = await deployment.verifier("d")
    roster = deployment.router.backend.roster
    for verifier in (first, heir):
        verifier.drafters["alice-1"] = "alices"
        roster.announce(verifier.member())
    ids = await ids_of(deployment.generate(speculation=types_pb2.Speculation(drafters=["alice-1"])))
    assert ids == answer(SEED, len(ids))
    assert list(heir.requests[0].speculation.drafters) == ["alice-1"]
    assert last.requests[0].speculation.off


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


async def test_a_revision_on_trial_gets_some_requests_instead_of_the_one_at_work_until_there_is_a_verdict(
    deploy: Deploy,
) -> None:
    """`fixed` always wants x; the new one is faster than the old."""
    deployment = await deploy(policy="fixed", trial_every=2, trial_segments=20)

    def speed(names: frozenset[str]) -> float:
        assert not {"x", "x~trial"} <= names, "never both"
        return 2.0 if "x~trial" in names else 1.5 if "x" in names else 1.0

    verifier = await deployment.verifier("v", drafters={"x-1": "x", "x-1~t": "x~trial"}, speed=speed)
    on_trial = Member("x-1~t", Role.DRAFTER, name="x~trial", own=True, trial_of="x-1", revision="r")
    member = member_to_proto(replace(on_trial, protocol=(1, 1), package="p", version="0"))
    verdicts = []
    for number in range(60):
        answer = await deployment.registry.Announce(router_pb2.AnnounceRequest(member=member))
        verdicts.append(answer.verdict.outcome)
        await ids_of(deployment.generate(seed=number, max_tokens=8))
        if verdicts[-1]:
            break
    asked = [tuple(request.speculation.drafters) for request in verifier.requests]
    assert set(asked) == {("x",), ("x-1~t",)}
    assert asked[-1] == ("x",), "after the verdict nobody is tried"
    assert verdicts[-1] == router_pb2.TrialVerdict.OUTCOME_BETTER
    assert answer.verdict.mean_reward == pytest.approx(2.0)
    assert answer.verdict.mean_reward_before == pytest.approx(1.5)
    assert min(answer.verdict.segments, answer.verdict.segments_before) >= 20
    assert pulls(deployment, Arm(("x",))) > 0
    assert mean(deployment, Arm(("x",))) == pytest.approx(1.5), "the trial's segments say nothing of the arm"
