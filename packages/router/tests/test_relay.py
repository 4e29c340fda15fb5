"""The front door with real servers behind it: what a client gets, whatever becomes of verifiers and drafters."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from conftest import DEFAULT_MAX_TOKENS, Deploy, answer, eventually

from paceline.router.arms import PLAIN, Arm
from paceline.router.finding import MAX_ASKED
from paceline.router.member import Role
from paceline.v1 import generation_pb2, router_pb2, types_pb2
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.status import CODES, from_rpc_error
from paceline.wire.version import make_peer

SEED = 7
DRAFTERS = {"s-1": "suffix", "r-1": "recycling"}


async def collect(call: Any) -> tuple[list[str], list[int], str, generation_pb2.Finished | None]:
    """Kinds of events, ids, text, and the end."""
    kinds: list[str] = []
    ids: list[int] = []
    text, finished = "", None
    async for event in call:
        kinds.append(event.WhichOneof("event"))
        ids.extend(event.tokens.ids)
        text += event.tokens.text
        finished = event.finished if event.HasField("finished") else finished
    return kinds, ids, text, finished


async def refusal(call: Any) -> PacelineError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collect(call)
    error = from_rpc_error(caught.value)
    assert error is not None
    assert caught.value.code() is CODES[error.reason]
    return error


def whole_text(ids: list[int]) -> str:
    return "".join(f"{token} " for token in ids)


# Relaying


async def test_the_client_gets_started_once_then_tokens_then_finished_and_no_outcomes(deploy: Deploy) -> None:
    deployment = await deploy()
    await deployment.verifier("v")
    kinds, ids, text, finished = await collect(deployment.generate())
    assert kinds == ["started", *["tokens"] * DEFAULT_MAX_TOKENS, "finished"]
    assert ids == answer(SEED, DEFAULT_MAX_TOKENS)
    assert text == whole_text(ids)
    assert finished is not None
    assert finished.total.tokens == DEFAULT_MAX_TOKENS


async def test_a_request_without_seed_and_id_gets_both_and_the_client_is_told(deploy: Deploy) -> None:
    deployment = await deploy()
    verifier = await deployment.verifier("v")
    request = generation_pb2.GenerateRequest(text="x", limits=types_pb2.Limits(max_tokens=2))
    started, *_ = [event.started async for event in deployment.stub.Generate(request)]
    (seen,) = verifier.requests
    assert seen.request_id
    assert seen.sampling.HasField("seed")
    assert (started.request_id, started.seed) == (seen.request_id, seen.sampling.seed)


async def test_two_requests_without_seed_get_different_ones(deploy: Deploy) -> None:
    deployment = await deploy()
    verifier = await deployment.verifier("v")
    for _ in range(2):
        await collect(deployment.stub.Generate(generation_pb2.GenerateRequest(text="x")))
    assert len({request.sampling.seed for request in verifier.requests}) == 2
    assert len({request.request_id for request in verifier.requests}) == 2


async def test_the_clients_deadline_reaches_the_verifier(deploy: Deploy) -> None:
    deployment = await deploy()
    verifier = await deployment.verifier("v")
    await collect(deployment.generate(timeout_s=5.0))
    (time_left,) = verifier.time_left
    assert time_left is not None
    assert 0.0 < time_left < 5.5


async def test_a_client_that_cancels_frees_the_verifier_at_once(deploy: Deploy) -> None:
    deployment = await deploy()
    verifier = await deployment.verifier("v", stop_at=3)
    call = deployment.generate()
    async with asyncio.timeout(5):
        await call.read()
        await verifier.stopped.wait()
        call.cancel()
        await eventually(lambda: verifier.num_cancelled == 1)
    await eventually(lambda: deployment.router.admission.num_active == 0)


# Drafters


async def test_off_means_off_and_named_drafters_and_max_nodes_pass_through(deploy: Deploy) -> None:
    deployment = await deploy()
    verifier = await deployment.verifier("v", drafters=DRAFTERS)
    await collect(deployment.generate(speculation=types_pb2.Speculation(off=True)))
    await collect(deployment.generate(speculation=types_pb2.Speculation(drafters=["s-1"], max_nodes=9)))
    off, named = (request.speculation for request in verifier.requests)
    assert off.off
    assert not off.drafters
    assert (named.off, list(named.drafters), named.max_nodes) == (False, ["s-1"], 9)
    assert verifier.engaged == []


async def test_a_drafter_that_no_verifier_knows_is_refused_as_the_last_one_asked_says(deploy: Deploy) -> None:
    deployment = await deploy()
    verifiers = [await deployment.verifier(f"v{index}", drafters=DRAFTERS) for index in range(6)]
    error = await refusal(deployment.generate(speculation=types_pb2.Speculation(drafters=["nobody"])))
    assert error.reason is Reason.UNKNOWN_DRAFTER
    assert error.message == "no drafter 'nobody' here"
    assert sum(len(verifier.requests) for verifier in verifiers) == MAX_ASKED
    assert max(len(verifier.requests) for verifier in verifiers) == 1


async def test_the_router_tries_every_arm_then_keeps_to_the_one_that_pays(deploy: Deploy) -> None:
    deployment = await deploy()
    speeds = {frozenset({"suffix"}): 3.0, frozenset({"recycling"}): 1.5, frozenset(DRAFTERS.values()): 2.0}
    verifier = await deployment.verifier("v", drafters=DRAFTERS, speed=lambda names: speeds.get(names, 1.0))
    for _ in range(30):
        await collect(deployment.generate(max_tokens=4))  # one segment: the arm is the one it began with
    status = await deployment.stub.GetStatus(router_pb2.GetStatusRequest())
    by_arm = {tuple(arm.drafters): arm for arm in status.arms}
    assert set(by_arm) == {(), ("recycling",), ("suffix",), ("recycling", "suffix")}
    for drafters, arm in by_arm.items():
        assert arm.mean_reward == pytest.approx(speeds.get(frozenset(drafters), 1.0))
    assert max(by_arm.values(), key=lambda arm: arm.pulls).drafters == ["suffix"]
    assert list(verifier.requests[-1].speculation.drafters) == ["suffix"]


async def test_drafters_change_in_mid_request_and_the_text_does_not(deploy: Deploy) -> None:
    deployment = await deploy()
    verifier = await deployment.verifier("v", drafters=DRAFTERS)
    _, ids, _, _ = await collect(deployment.generate(max_tokens=64))
    assert verifier.engaged
    assert len(verifier.requests) == 1
    assert ids == answer(SEED, 64)


async def test_a_drafter_that_left_between_choice_and_call_costs_nothing_but_itself(deploy: Deploy) -> None:
    deployment = await deploy(policy="fixed")
    verifier = await deployment.verifier("v", drafters=dict(DRAFTERS))
    del verifier.drafters["s-1"]
    _, ids, _, _ = await collect(deployment.generate())
    assert ids == answer(SEED, DEFAULT_MAX_TOKENS)
    assert [list(request.speculation.drafters) for request in verifier.requests] == [
        ["recycling", "suffix"],
        ["recycling"],
    ]


async def test_when_all_drafters_left_the_request_runs_plain(deploy: Deploy) -> None:
    deployment = await deploy(policy="fixed")
    verifier = await deployment.verifier("v", drafters=dict(DRAFTERS))
    verifier.drafters.clear()
    _, ids, _, _ = await collect(deployment.generate())
    assert ids == answer(SEED, DEFAULT_MAX_TOKENS)
    assert verifier.requests[-1].speculation.off


async def test_the_fixed_arm_is_the_one_that_was_configured(deploy: Deploy) -> None:
    for fixed_arm, expected in (("", ["recycling", "suffix"]), ("suffix", ["suffix"]), ("none", [])):
        deployment = await deploy(policy="fixed", fixed_arm=fixed_arm)
        verifier = await deployment.verifier("v", drafters=DRAFTERS)
        await collect(deployment.generate())
        assert list(verifier.requests[0].speculation.drafters) == expected
        assert verifier.requests[0].speculation.off is (not expected)


async def test_the_arm_of_a_drafter_that_is_gone_leaves(deploy: Deploy) -> None:
    deployment = await deploy()
    verifier = await deployment.verifier("v", drafters=DRAFTERS)
    deployment.router.backend.roster.withdraw(Role.DRAFTER, "s-1")
    status = await deployment.stub.GetStatus(router_pb2.GetStatusRequest())
    assert [list(arm.drafters) for arm in status.arms] == [[], ["recycling"]]
    for _ in range(5):
        await collect(deployment.generate())
    assert all("suffix" not in request.speculation.drafters for request in verifier.requests)


# Refusals


async def test_without_verifiers_the_client_is_told_how_to_start_one(deploy: Deploy) -> None:
    deployment = await deploy()
    error = await refusal(deployment.generate())
    assert error.reason is Reason.NO_VERIFIER
    assert "paceline-verifier serve" in error.message


async def test_an_unknown_model_is_refused_with_those_that_are_known(deploy: Deploy) -> None:
    deployment = await deploy()
    await deployment.verifier("v", model="small")
    await deployment.verifier("w", model="large")
    error = await refusal(deployment.generate(model="huge"))
    assert error.reason is Reason.UNKNOWN_MODEL
    assert "large, small" in error.message


async def test_a_request_goes_to_a_verifier_of_its_model(deploy: Deploy) -> None:
    deployment = await deploy()
    small = await deployment.verifier("a", model="small")
    large = await deployment.verifier("b", model="large")
    await collect(deployment.generate(model="large"))
    assert (len(small.requests), len(large.requests)) == (0, 1)


async def test_a_request_error_of_the_verifier_passes_through_unchanged(deploy: Deploy) -> None:
    deployment = await deploy()
    said = PacelineError(
        Reason.PROMPT_TOO_LONG, "the prompt has 9 tokens, 8 fit", field="prompt", value=9, limit=8, retry_after_s=2.0
    )
    first = await deployment.verifier("a", refusal=said)
    second = await deployment.verifier("b", refusal=said)
    error = await refusal(deployment.generate())
    assert (error.reason, error.message, error.field, error.value, error.limit, error.retry_after_s) == (
        said.reason,
        said.message,
        "prompt",
        "9",
        "8",
        2.0,
    )
    assert len(first.requests) + len(second.requests) == 1


async def test_a_full_verifier_is_passed_over_and_if_all_are_full_the_client_hears_it(deploy: Deploy) -> None:
    deployment = await deploy()
    said = PacelineError(Reason.OVERLOADED, "64 requests are waiting", retry_after_s=1.0)
    await deployment.verifier("a", refusal=said)
    other = await deployment.verifier("b")
    _, ids, _, _ = await collect(deployment.generate())
    assert ids == answer(SEED, DEFAULT_MAX_TOKENS)
    other.refusal = said
    error = await refusal(deployment.generate())
    assert (error.reason, error.message, error.retry_after_s) == (Reason.OVERLOADED, said.message, 1.0)


async def test_more_requests_than_max_requests_are_refused_and_a_finished_one_makes_room(deploy: Deploy) -> None:
    deployment = await deploy(max_requests=1)
    verifier = await deployment.verifier("v", stop_at=3)
    first = asyncio.create_task(collect(deployment.generate()))
    await verifier.stopped.wait()
    error = await refusal(deployment.generate())
    assert error.reason is Reason.OVERLOADED
    assert error.retry_after_s
    verifier.resume.set()
    await first
    await eventually(lambda: deployment.router.admission.num_active == 0)
    await collect(deployment.generate())


async def test_a_router_told_to_stop_refuses_new_requests_and_finishes_the_running_one(deploy: Deploy) -> None:
    deployment = await deploy()
    verifier = await deployment.verifier("v", stop_at=3)
    running = asyncio.create_task(collect(deployment.generate()))
    await verifier.stopped.wait()
    draining = asyncio.create_task(deployment.router.drain())
    await eventually(lambda: deployment.router.admission.draining)
    assert (await refusal(deployment.generate())).reason is Reason.DRAINING
    assert not draining.done()
    verifier.resume.set()
    _, ids, _, _ = await running
    assert ids == answer(SEED, DEFAULT_MAX_TOKENS)
    async with asyncio.timeout(2):
        await draining


# Failover

LOSSES = [
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.CANCELLED,
    PacelineError(Reason.INTERNAL, "unforeseen"),
    PacelineError(Reason.VERIFIER_LOST, "gone"),
    PacelineError(Reason.LOADING, "loading"),
    PacelineError(Reason.DRAINING, "draining"),
]


@pytest.mark.parametrize("failure", LOSSES, ids=str)
@pytest.mark.parametrize("at", [0, 1, 10, DEFAULT_MAX_TOKENS - 1])
async def test_a_verifier_that_fails_in_mid_request_changes_nothing_for_the_client(
    deploy: Deploy, failure: Any, at: int
) -> None:
    deployment = await deploy()
    lost = await deployment.verifier("a", fail_at=at, failure=failure)
    heir = await deployment.verifier("b")
    kinds, ids, text, finished = await collect(deployment.generate())
    assert kinds == ["started", *["tokens"] * DEFAULT_MAX_TOKENS, "finished"]
    assert ids == answer(SEED, DEFAULT_MAX_TOKENS)
    assert text == whole_text(ids)
    (before,), (after,) = lost.requests, heir.requests
    assert list(after.committed.ids) == ids[:at]
    assert (after.request_id, after.sampling.seed) == (before.request_id, before.sampling.seed)
    assert finished is not None
    assert finished.total.tokens == DEFAULT_MAX_TOKENS


@pytest.mark.parametrize("at", [0, 1, 10, DEFAULT_MAX_TOKENS - 1])
async def test_each_token_has_one_step_also_where_a_verifier_fails_between_the_two(deploy: Deploy, at: int) -> None:
    deployment = await deploy()
    lost = await deployment.verifier("a", rows=1, fail_after_step_at=at)
    heir = await deployment.verifier("b", rows=2)
    asked = generation_pb2.StepsRequest(max_nodes=9)
    events = [event async for event in deployment.generate(steps=asked)]
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds == ["started", *["step", "tokens"] * DEFAULT_MAX_TOKENS, "finished"]
    assert [token for event in events for token in event.tokens.ids] == answer(SEED, DEFAULT_MAX_TOKENS)
    rows = [event.step.rows for event in events if event.HasField("step")]
    assert rows == [1] * at + [2] * (DEFAULT_MAX_TOKENS - at)
    assert [one.requests[0].steps for one in (lost, heir)] == [asked, asked]


async def test_a_killed_verifier_changes_nothing_for_the_client(deploy: Deploy) -> None:
    deployment = await deploy()
    lost = await deployment.verifier("a", stop_at=10)
    await deployment.verifier("b")
    running = asyncio.create_task(collect(deployment.generate()))
    await lost.stopped.wait()
    await lost.kill()
    _, ids, _, _ = await running
    assert ids == answer(SEED, DEFAULT_MAX_TOKENS)


async def test_failover_goes_on_after_what_the_client_already_had(deploy: Deploy) -> None:
    deployment = await deploy()
    await deployment.verifier("a", fail_at=10)
    heir = await deployment.verifier("b")
    _, ids, _, _ = await collect(deployment.generate(committed=types_pb2.TokenIds(ids=answer(SEED, 5))))
    assert ids == answer(SEED, DEFAULT_MAX_TOKENS, start=5)
    assert list(heir.requests[0].committed.ids) == answer(SEED, 10)


async def test_totals_add_up_over_verifiers(deploy: Deploy) -> None:
    deployment = await deploy()
    await deployment.verifier("a", fail_at=8)
    await deployment.verifier("b")
    _, _, _, finished = await collect(deployment.generate(speculation=types_pb2.Speculation(off=True)))
    assert finished is not None
    assert finished.total.steps == DEFAULT_MAX_TOKENS
    assert finished.total.plain_s == pytest.approx(0.01 * DEFAULT_MAX_TOKENS)
    assert [credit.proposed for credit in finished.total.drafters] == [DEFAULT_MAX_TOKENS]


async def test_failover_never_goes_to_another_tokenizer_or_model(deploy: Deploy) -> None:
    deployment = await deploy(failover_wait_s=0.2)
    await deployment.verifier("a", fail_at=10)
    tokenizer = await deployment.verifier("b", tokenizer_hash="other")
    model = await deployment.verifier("c", model="n")
    for busy in (tokenizer, model):
        deployment.announce(busy, load=3)
    error = await refusal(deployment.generate())
    assert error.reason is Reason.VERIFIER_LOST
    assert tokenizer.requests == model.requests == []


async def test_a_draining_verifier_gets_nothing_new(deploy: Deploy) -> None:
    deployment = await deploy()
    leaving = await deployment.verifier("a")
    deployment.announce(leaving, draining=True)
    staying = await deployment.verifier("b")
    await collect(deployment.generate())
    assert (len(leaving.requests), len(staying.requests)) == (0, 1)


async def test_a_failed_verifier_is_avoided_by_later_requests(deploy: Deploy) -> None:
    deployment = await deploy()
    lost = await deployment.verifier("a", fail_at=2)
    await deployment.verifier("b")
    for _ in range(3):
        await collect(deployment.generate())
    assert len(lost.requests) == 1


async def test_a_request_waits_for_a_verifier_that_appears_late(deploy: Deploy) -> None:
    deployment = await deploy()
    lost = await deployment.verifier("a", stop_at=10)
    late = await deployment.verifier("b", announced=False)
    running = asyncio.create_task(collect(deployment.generate()))
    await lost.stopped.wait()
    await lost.kill()
    await eventually(lambda: not deployment.router.backend.roster.available())
    assert not running.done()
    deployment.announce(late)
    _, ids, _, _ = await running
    assert ids == answer(SEED, DEFAULT_MAX_TOKENS)


async def test_when_no_verifier_comes_the_client_hears_that_its_own_was_lost(deploy: Deploy) -> None:
    deployment = await deploy(failover_wait_s=0.2)
    lost = await deployment.verifier("a", stop_at=10)
    running = asyncio.create_task(refusal(deployment.generate()))
    await lost.stopped.wait()
    await lost.kill()
    error = await running
    assert error.reason is Reason.VERIFIER_LOST
    assert "10 tokens" in error.message


async def test_an_answer_that_was_complete_is_finished_without_a_verifier(deploy: Deploy) -> None:
    deployment = await deploy(failover_wait_s=5.0)

    def outcome_lost(_names: frozenset[str]) -> float:
        raise PacelineError(Reason.INTERNAL, "died after the last token")

    await deployment.verifier("a", speed=outcome_lost)
    async with asyncio.timeout(3):
        kinds, ids, _, finished = await collect(deployment.generate(max_tokens=3))
    assert kinds == ["started", *["tokens"] * 3, "finished"]
    assert ids == answer(SEED, 3)
    assert finished is not None
    assert finished.reason == generation_pb2.FINISH_REASON_LENGTH


async def test_a_request_that_fails_everywhere_ends_and_does_not_go_round_for_ever(deploy: Deploy) -> None:
    deployment = await deploy()
    said = PacelineError(Reason.INTERNAL, "unforeseen")
    verifiers = [await deployment.verifier(f"v{index}", refusal=said) for index in range(8)]
    error = await refusal(deployment.generate())
    assert error.reason is Reason.VERIFIER_LOST
    assert 1 < sum(len(verifier.requests) for verifier in verifiers) < 8


# Registry and learning


async def test_services_register_over_the_wire_and_hear_of_verifiers_and_trainers(deploy: Deploy) -> None:
    deployment = await deploy()
    verifier = await deployment.verifier("v", announced=False)
    peer = make_peer("paceline-verifier", "0.1.0")
    members = [
        router_pb2.Member(id="t", role=router_pb2.ROLE_TRAINER, address="127.0.0.1:7720", peer=peer),
        router_pb2.Member(
            id="v",
            role=router_pb2.ROLE_VERIFIER,
            address=verifier.address,
            model="m",
            tokenizer_hash="hash",
            capacity=2,
            peer=peer,
        ),
    ]
    for member in members:
        response = await deployment.registry.Announce(router_pb2.AnnounceRequest(member=member))
    assert response.lease_s == 60.0
    assert [member.id for member in response.verifiers] == ["v"]
    assert [member.id for member in response.trainers] == ["t"]
    await collect(deployment.generate())
    await deployment.registry.Withdraw(router_pb2.WithdrawRequest(id="v", role=router_pb2.ROLE_VERIFIER))
    assert (await refusal(deployment.generate())).reason is Reason.NO_VERIFIER


async def test_a_store_that_fails_costs_learning_and_no_request(deploy: Deploy, tmp_path: Any) -> None:
    deployment = await deploy(state=f"sqlite:///{tmp_path}/router.db")
    await deployment.verifier("v", drafters=DRAFTERS)
    await collect(deployment.generate())
    (tmp_path / "router.db").unlink()
    (tmp_path / "router.db").mkdir()
    for _ in range(4):
        _, ids, _, _ = await collect(deployment.generate())
        assert ids == answer(SEED, DEFAULT_MAX_TOKENS)
    learner = deployment.router.backend.learner
    reports = learner.report("m", [PLAIN, Arm(("suffix",))])
    assert all(report.pulls > 0 for report in reports)
