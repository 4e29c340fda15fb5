"""A router with a token file, over gRPC: who gets in, on whose behalf, how much they get, and what they are told."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from conftest import Deploy, Deployment, answer, eventually, request_of
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from structlog.testing import capture_logs
from token_files import ADMIN, ALICE, ALL, BOB, MEMBER, OLD, SECRETS, entry, stub_with, tenants, write_tokens

from paceline.router.access.rights import METHODS, NOBODY, PATHS, roles_for_method, roles_for_path
from paceline.router.serve import ADMIN_SERVICE, SERVICES
from paceline.router.service import PACKAGE
from paceline.v1 import admin_pb2, generation_pb2, router_pb2, router_pb2_grpc, types_pb2
from paceline.wire.channel import connect
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.settings import ClientSettings, StartupError
from paceline.wire.status import from_rpc_error
from paceline.wire.version import make_peer

NEW = (1, 4)


async def guarded(deploy: Deploy, folder: Path, settings: dict[str, Any] | None = None, **limits: Any) -> Deployment:
    path = write_tokens(folder / "tokens.yaml", tenants(**limits))
    deployment = await deploy(token_file=path, **(settings or {}))
    await deployment.verifier("v", protocol=NEW)
    return deployment


async def ids_of(stub: Any, **fields: Any) -> list[int]:
    request = request_of(**fields)
    return [token async for event in stub.Generate(request, timeout=20) for token in event.tokens.ids]


async def refusal_of(call: Any) -> PacelineError:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    refusal = from_rpc_error(refused.value)
    assert refusal is not None, refused.value
    return refusal


def test_every_method_that_there_is_has_its_roles() -> None:
    pool = {**router_pb2.DESCRIPTOR.services_by_name, **admin_pb2.DESCRIPTOR.services_by_name}
    known = {f"/{one.full_name}/{method.name}" for one in pool.values() for method in one.methods}
    assert {one.full_name for one in pool.values()} == {*SERVICES, ADMIN_SERVICE}
    assert known <= METHODS.keys()
    assert all(METHODS.values())
    assert roles_for_method("/paceline.v1.Router/OfALaterRelease") == NOBODY


async def test_deny_by_default_and_health_for_all(deploy: Deploy, tmp_path: Path) -> None:
    deployment = await guarded(deploy, tmp_path)
    member = router_pb2.Member(id="d", role=router_pb2.ROLE_DRAFTER, name="d", peer=make_peer(PACKAGE, "0"))
    for token, words in (("", "a token is needed"), ("wrong", "not known"), (OLD, "'bob' expired at 2020-02-02T02:02")):
        async with connect(deployment.router.server.address, ClientSettings(token=token)) as channel:
            router, registry = router_pb2_grpc.RouterStub(channel), router_pb2_grpc.RegistryStub(channel)
            listing = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
            for call in (
                ids_of(router),
                router.GetStatus(router_pb2.GetStatusRequest()),
                registry.Announce(router_pb2.AnnounceRequest(member=member)),
                registry.Withdraw(router_pb2.WithdrawRequest(id="v", role=router_pb2.ROLE_VERIFIER)),
                anext(aiter(reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(listing))),
            ):
                refusal = await refusal_of(call)
                assert refusal.reason is Reason.UNAUTHENTICATED
                assert words in refusal.message
            health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert health.status == health_pb2.HealthCheckResponse.NOT_SERVING  # until run() says otherwise


async def test_each_role_may_do_its_own_and_no_more(deploy: Deploy, tmp_path: Path) -> None:
    deployment = await guarded(deploy, tmp_path)
    member = router_pb2.Member(id="d", role=router_pb2.ROLE_DRAFTER, name="d", peer=make_peer(PACKAGE, "0"))
    may = {
        ALICE: {"generate"},
        MEMBER: {"status", "announce"},
        ADMIN: {"status"},
        ALL: {"generate", "status", "announce"},
    }
    for token, allowed in may.items():
        async with connect(deployment.router.server.address, ClientSettings(token=token)) as channel:
            router, registry = router_pb2_grpc.RouterStub(channel), router_pb2_grpc.RegistryStub(channel)
            calls: dict[str, Any] = {
                "generate": ids_of(router),
                "status": router.GetStatus(router_pb2.GetStatusRequest()),
                "announce": registry.Announce(router_pb2.AnnounceRequest(member=member)),
            }
            for name, call in calls.items():
                if name in allowed:
                    await call
                else:
                    refusal = await refusal_of(call)
                    assert refusal.reason is Reason.PERMISSION_DENIED
                    assert "is for" in refusal.message


async def test_the_tenant_is_the_tokens_and_what_a_client_names_lies_within(deploy: Deploy, tmp_path: Path) -> None:
    deployment = await guarded(deploy, tmp_path)
    (verifier,) = [await deployment.verifier("only", model="w", protocol=NEW)]
    async with stub_with(deployment, ALICE) as alice, stub_with(deployment, BOB) as bob:
        for asked in ("", "bob", "alice"):
            await ids_of(alice, model="w", tenant=asked)
        await ids_of(bob, model="w")
        assert [one.tenant for one in verifier.requests] == ["alice", "alice/bob", "alice/alice", "bob"]
        refusal = await refusal_of(ids_of(alice, model="w", tenant="x" * 195))
        assert (refusal.reason, refusal.field) == (Reason.OUT_OF_RANGE, "tenant")
        assert "at most 194" in refusal.message


async def test_without_a_token_file_the_client_names_it(deploy: Deploy) -> None:
    deployment = await deploy()
    verifier = await deployment.verifier("v")
    assert [event async for event in deployment.generate(tenant="mine")]
    assert verifier.requests[0].tenant == "mine"


async def test_over_the_rate_it_says_when_and_others_go_on(deploy: Deploy, tmp_path: Path) -> None:
    deployment = await guarded(deploy, tmp_path, requests_per_minute=2)
    async with stub_with(deployment, ALICE) as alice, stub_with(deployment, BOB) as bob:
        for _ in range(2):
            assert await ids_of(alice) == answer(7, 24)
        refusal = await refusal_of(ids_of(alice))
        assert (refusal.reason, refusal.limit) == (Reason.RATE_LIMITED, "2")
        assert refusal.retry_after_s is not None
        assert 0.0 < refusal.retry_after_s <= 30.0
        assert await ids_of(bob) == answer(7, 24)


async def test_at_once_counts_what_runs_and_a_place_is_free_when_it_ends(deploy: Deploy, tmp_path: Path) -> None:
    deployment = await guarded(deploy, tmp_path, requests_at_once=1)
    slow = await deployment.verifier("slow", model="w", stop_at=3, protocol=NEW)
    async with stub_with(deployment, ALICE) as alice:
        running = asyncio.create_task(ids_of(alice, model="w"))
        await slow.stopped.wait()
        assert (await refusal_of(ids_of(alice))).reason is Reason.RATE_LIMITED
        slow.resume.set()
        assert await running == answer(7, 24)
        assert await ids_of(alice) == answer(7, 24)
        left = alice.Generate(request_of(model="w"))
        await left.read()
        left.cancel()
        usage = deployment.router.lock.tokens
        assert usage is not None
        quota = usage.usage()[0][0]
        await eventually(lambda: quota.running == 0)
        assert await ids_of(alice) == answer(7, 24)
        assert (quota.tenant, quota.num_refused, quota.num_requests) == ("alice", 1, 4)


async def test_tokens_are_paid_for_as_they_come(deploy: Deploy, tmp_path: Path) -> None:
    deployment = await guarded(deploy, tmp_path, tokens_per_minute=30)
    async with stub_with(deployment, ALICE) as alice:
        assert await ids_of(alice, max_tokens=40) == answer(7, 40)
        refusal = await refusal_of(ids_of(alice))
        assert refusal.reason is Reason.RATE_LIMITED
        assert "its tokens a minute" in refusal.message
        assert refusal.retry_after_s is not None
        assert 0.0 < refusal.retry_after_s <= 22.0


async def test_sizes(deploy: Deploy, tmp_path: Path) -> None:
    deployment = await guarded(deploy, tmp_path, prompt_bytes=20, prompt_tokens=2, max_tokens=10)
    large = [
        {"text": "x" * 21},
        {"messages": types_pb2.ChatMessages(messages=[types_pb2.ChatMessage(role="user", content="ü" * 11)])},
        {"token_ids": types_pb2.TokenIds(ids=[1] * 3)},
        {"text": "x"},  # three tokens, says the verifier
    ]
    async with stub_with(deployment, ALICE) as alice:
        for prompt in large:
            request = generation_pb2.GenerateRequest(limits=types_pb2.Limits(max_tokens=10), **prompt)  # type: ignore[arg-type]
            refusal = await refusal_of(anext(aiter(alice.Generate(request))))
            assert refusal.reason is Reason.PROMPT_TOO_LONG
            assert "tenant 'alice' may send" in refusal.message
        refusal = await refusal_of(ids_of(alice, max_tokens=11))
        assert (refusal.reason, refusal.field) == (Reason.OUT_OF_RANGE, "limits.max_tokens")
        verifier = await deployment.verifier("w", model="w", protocol=NEW)
        deployment.announce(await deployment.verifier("before", announced=False, model="old", protocol=(1, 3)))
        await refusal_of(ids_of(alice, model="w", max_tokens=0))  # its prompt has three tokens here, too
        assert (verifier.requests[0].most_tokens, verifier.requests[0].limits.max_tokens) == (10, 0)
        refusal = await refusal_of(ids_of(alice, model="old", max_tokens=0))
        assert refusal.reason is Reason.INCOMPATIBLE_VERSION
        assert "set limits.max_tokens" in refusal.message


async def test_what_is_refused_for_all_costs_a_tenant_nothing(deploy: Deploy, tmp_path: Path) -> None:
    deployment = await guarded(deploy, tmp_path, {"max_requests": 1}, requests_per_minute=2)
    slow = await deployment.verifier("slow", model="w", stop_at=3, protocol=NEW)
    async with stub_with(deployment, ALICE) as alice, stub_with(deployment, BOB) as bob:
        running = asyncio.create_task(ids_of(bob, model="w"))
        await slow.stopped.wait()
        for _ in range(5):
            assert (await refusal_of(ids_of(alice))).reason is Reason.OVERLOADED
        slow.resume.set()
        await running
        assert await ids_of(alice) == answer(7, 24)


async def test_a_file_that_changes_counts_from_the_next_call_on(deploy: Deploy, tmp_path: Path) -> None:
    deployment = await guarded(deploy, tmp_path, requests_at_once=1)
    slow = await deployment.verifier("slow", model="w", stop_at=3, protocol=NEW)
    assert deployment.router.lock.tokens is not None
    async with stub_with(deployment, ALICE) as alice, stub_with(deployment, BOB) as bob:
        running = asyncio.create_task(ids_of(alice, model="w"))
        await slow.stopped.wait()
        with capture_logs() as logs:
            write_tokens(tmp_path / "tokens.yaml", {"carol": {"tokens": [entry(BOB)]}})
            await eventually(lambda: any(one["event"] == "token file read" for one in logs))
        assert (await refusal_of(ids_of(alice))).reason is Reason.UNAUTHENTICATED
        slow.resume.set()
        assert await running == answer(7, 24)  # what runs goes on
        await ids_of(bob)
        assert [quota.tenant for quota, _, _ in deployment.router.lock.tokens.usage()] == ["carol"]


async def test_the_shared_token_is_no_back_door_beside_a_file(deploy: Deploy, tmp_path: Path) -> None:
    with capture_logs() as logs:
        deployment = await guarded(deploy, tmp_path, {"token": "shared"})
    assert any("--token are not let in" in one["event"] for one in logs)
    async with stub_with(deployment, "shared") as stub:
        assert (await refusal_of(ids_of(stub))).reason is Reason.UNAUTHENTICATED
    with capture_logs() as logs:
        await deploy(token_file=tmp_path / "tokens.yaml", token=MEMBER)
    assert not [one for one in logs if one["log_level"] == "warning"]


async def test_a_verifier_that_refuses_the_router_is_not_the_clients_fault(deploy: Deploy, tmp_path: Path) -> None:
    deployment = await deploy(token_file=write_tokens(tmp_path / "tokens.yaml", tenants()), failover_wait_s=0.1)
    strict = await deployment.verifier("strict")
    strict.refusal = PacelineError(Reason.UNAUTHENTICATED, "metadata 'authorization' must be …")
    async with stub_with(deployment, ALICE) as alice:
        refusal = await refusal_of(ids_of(alice))
        assert refusal.reason is Reason.VERIFIER_LOST
        assert "doesn't take this router's token" in refusal.message
        open_one = await deployment.verifier("w-open")
        assert await ids_of(alice) == answer(7, 24)
        assert len(open_one.requests) == 1


async def test_no_secret_is_logged_or_told(deploy: Deploy, tmp_path: Path) -> None:
    own = secrets.token_hex(16)
    said: list[str] = []
    with capture_logs() as logs:
        deployment = await guarded(deploy, tmp_path, {"token": own}, requests_per_minute=1)
        for token in (*SECRETS, "wrong-secret", own):
            async with connect(deployment.router.server.address, ClientSettings(token=token)) as channel:
                stub = router_pb2_grpc.RouterStub(channel)
                for call in (ids_of(stub), ids_of(stub), stub.GetStatus(router_pb2.GetStatusRequest())):
                    try:
                        said.append(str(await call))
                    except grpc.aio.AioRpcError as error:
                        said.append(f"{error} {error.trailing_metadata()}")
        write_tokens(tmp_path / "tokens.yaml", {"x": {"tokens": [{"sha256": ALICE}]}})
        await eventually(lambda: any("token file not read" in one["event"] for one in logs))
    everything = f"{logs} {said} {deployment.router.settings!r}"
    for token in (*SECRETS, "wrong-secret", own):
        assert token not in everything


async def test_a_token_file_that_cant_be_used_is_said_at_the_start(deploy: Deploy, tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"--token-file: .*none\.yaml can't be read"):
        await deploy(token_file=tmp_path / "none.yaml")


def test_paths() -> None:
    assert roles_for_path("/v1/chat/completions") == PATHS["/v1/"]
    assert roles_for_path("/v1") == roles_for_path("/nowhere")
