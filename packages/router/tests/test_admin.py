"""The admin port of a running router: what it changes while requests run, who gets to it, and the commands for it."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from certificates import Authority
from conftest import Deploy, Deployment, answer, request_of
from token_files import ADMIN, ALICE, MEMBER, stub_with, tenants, write_tokens

from paceline.router.__main__ import COMMANDS
from paceline.router.admin.port import admin_address
from paceline.router.member import Member, Role
from paceline.router.settings import RouterSettings
from paceline.v1 import admin_pb2, admin_pb2_grpc, router_pb2
from paceline.wire.channel import connect
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.settings import ClientSettings, StartupError, run_commands
from paceline.wire.status import from_rpc_error
from paceline.wire.version import make_peer

TIMEOUT_S = 20.0


def address_of(deployment: Deployment) -> str:
    return deployment.router.server.other_addresses["admin"]


@asynccontextmanager
async def admin_of(deployment: Deployment, **settings: Any) -> AsyncIterator[Any]:
    async with connect(address_of(deployment), ClientSettings(**settings)) as channel:
        yield admin_pb2_grpc.AdminStub(channel)


def drain(member_id: str, **fields: Any) -> admin_pb2.DrainMemberRequest:
    return admin_pb2.DrainMemberRequest(id=member_id, **fields)


def withdraw(member_id: str, **fields: Any) -> admin_pb2.WithdrawMemberRequest:
    return admin_pb2.WithdrawMemberRequest(id=member_id, **fields)


async def refusal_of(call: Any) -> PacelineError:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    refusal = from_rpc_error(refused.value)
    assert refusal is not None, refused.value
    return refusal


async def ids_of(deployment: Deployment, **fields: Any) -> list[int]:
    return [token async for event in deployment.generate(**fields) for token in event.tokens.ids]


async def members_of(deployment: Deployment) -> dict[str, bool]:
    status = await deployment.stub.GetStatus(router_pb2.GetStatusRequest())
    return {member.id: member.draining for member in status.members}


async def test_a_drained_verifier_finishes_what_runs_and_gets_nothing_new(deploy: Deploy) -> None:
    deployment = await deploy()
    one = await deployment.verifier("one", stop_at=3)
    running = asyncio.create_task(ids_of(deployment))
    await one.stopped.wait()
    two = await deployment.verifier("two")
    async with admin_of(deployment) as admin:
        response = await admin.Drain(drain("one"))
        assert (response.member.id, response.member.draining, response.running) == ("one", True, 1)
        deployment.announce(one)  # as it does every two seconds, and says that it isn't draining
        assert await members_of(deployment) == {"one": True, "two": False}
        for _ in range(5):
            assert await ids_of(deployment) == answer(7, 24)
        assert (len(one.requests), len(two.requests)) == (1, 5)
        one.resume.set()
        assert await running == answer(7, 24)
        assert not (await admin.Drain(drain("one", undo=True))).member.draining
        await admin.Drain(drain("two", role=router_pb2.ROLE_VERIFIER))
        assert await ids_of(deployment) == answer(7, 24)
        assert len(one.requests) == 2


async def test_a_request_that_waits_is_placed_when_a_drain_is_undone(deploy: Deploy) -> None:
    deployment = await deploy(failover_wait_s=30.0)
    first = await deployment.verifier("first", fail_at=2)
    spare = await deployment.verifier("spare", announced=False)
    async with admin_of(deployment) as admin:
        deployment.announce(spare, load=100)  # so the other has it first
        await admin.Drain(drain("spare"))
        waiting = asyncio.create_task(ids_of(deployment))
        while not first.requests:
            await asyncio.sleep(0.005)
        await admin.Drain(drain("spare", undo=True))
        async with asyncio.timeout(TIMEOUT_S):
            assert await waiting == answer(7, 24)


async def test_a_drained_drafter_is_not_chosen(deploy: Deploy) -> None:
    deployment = await deploy(policy="fixed")
    verifier = await deployment.verifier("v", drafters={"d-1": "suffix", "d-2": "recycling"})
    async with admin_of(deployment) as admin:
        await admin.Drain(drain("d-1"))
        await ids_of(deployment)
        await admin.Drain(drain("d-1", undo=True))
        await ids_of(deployment)
    assert [sorted(one.speculation.drafters) for one in verifier.requests] == [["recycling"], ["recycling", "suffix"]]


async def test_a_withdrawn_member_stays_out_until_it_is_let_in(deploy: Deploy) -> None:
    deployment = await deploy()
    verifier = await deployment.verifier("v", stop_at=3)
    running = asyncio.create_task(ids_of(deployment))
    await verifier.stopped.wait()
    member = router_pb2.Member(
        id="v", role=router_pb2.ROLE_VERIFIER, address=verifier.address, model="m", peer=make_peer("test", "0")
    )
    announcement = router_pb2.AnnounceRequest(member=member)
    async with admin_of(deployment) as admin:
        assert (await admin.Withdraw(withdraw("v"))).role == router_pb2.ROLE_VERIFIER
        refusal = await refusal_of(deployment.registry.Announce(announcement))
        assert refusal.reason is Reason.PERMISSION_DENIED
        assert "paceline-router withdraw v --undo" in refusal.message
        assert await members_of(deployment) == {}
        verifier.resume.set()
        assert await running == answer(7, 24)  # what ran goes on
        assert "withdrawn; there is: verifier v" in (await refusal_of(admin.Withdraw(withdraw("x", undo=True)))).message
        await admin.Withdraw(withdraw("v", undo=True))
        await deployment.registry.Announce(announcement)
    assert await members_of(deployment) == {"v": False}


async def test_ids_that_are_none_or_several(deploy: Deploy) -> None:
    deployment = await deploy()
    roster = deployment.router.backend.roster
    for role in (Role.DRAFTER, Role.TRAINER):
        roster.announce(Member("twin", role, name="n", address="h:1"))
    async with admin_of(deployment) as admin:
        for call in (admin.Drain(drain("nobody")), admin.Withdraw(withdraw("nobody"))):
            refusal = await refusal_of(call)
            assert refusal.reason is Reason.UNKNOWN_MEMBER
            assert "there is: drafter twin, trainer twin" in refusal.message
        for call in (admin.Drain(drain("twin")), admin.Withdraw(withdraw("twin"))):
            assert (await refusal_of(call)).field == "role"
        refusal = await refusal_of(admin.Drain(drain("twin", role=router_pb2.ROLE_TRAINER)))
        assert "withdraw it instead" in refusal.message
        assert (await refusal_of(admin.Drain(drain("twin", role=9)))).reason is Reason.MALFORMED
        assert len((await refusal_of(admin.Drain(drain("x" * 100_000)))).message) < 1000
        for role in (router_pb2.ROLE_DRAFTER, router_pb2.ROLE_TRAINER):
            await admin.Withdraw(withdraw("twin", role=role))
        assert (await refusal_of(admin.Withdraw(withdraw("twin", undo=True)))).field == "role"
        await admin.Withdraw(withdraw("twin", role=router_pb2.ROLE_DRAFTER, undo=True))
        await admin.Withdraw(withdraw("twin", undo=True))


async def test_the_policy_changes_while_a_request_runs(deploy: Deploy) -> None:
    deployment = await deploy(policy="ucb")
    verifier = await deployment.verifier("v", drafters={"d-1": "suffix"}, stop_at=10)
    running = asyncio.create_task(ids_of(deployment))
    await verifier.stopped.wait()
    async with admin_of(deployment) as admin:
        response = await admin.SetPolicy(admin_pb2.SetPolicyRequest(policy="fixed"))
        assert (response.before, response.policy) == ("ucb", "fixed")
        verifier.resume.set()
        assert await running == answer(7, 24)
        assert await ids_of(deployment) == answer(7, 24)
        status = await deployment.stub.GetStatus(router_pb2.GetStatusRequest())
        assert status.policy == "fixed"
        response = await admin.SetPolicy(admin_pb2.SetPolicyRequest(policy="fixed"))
        assert (response.before, response.policy) == ("fixed", "fixed")
        for wrong in ("", "best", "x" * 1000):
            refusal = await refusal_of(admin.SetPolicy(admin_pb2.SetPolicyRequest(policy=wrong)))
            assert refusal.field == "policy"
        refusal = await refusal_of(admin.SetPolicy(admin_pb2.SetPolicyRequest(policy="best")))
        assert refusal.reason is Reason.UNKNOWN_POLICY
        assert "there are: linucb, ucb, thompson" in refusal.message
    assert list(verifier.requests[-1].speculation.drafters) == ["suffix"]


async def test_tenants_are_listed_with_what_they_use(deploy: Deploy, tmp_path: Path) -> None:
    path = write_tokens(tmp_path / "tokens.yaml", tenants(requests_per_minute=1))
    deployment = await deploy(token_file=path)
    await deployment.verifier("v")
    async with stub_with(deployment, ALICE) as alice:
        assert [event async for event in alice.Generate(request_of())]
        with pytest.raises(grpc.aio.AioRpcError):
            await anext(aiter(alice.Generate(request_of())))
    async with admin_of(deployment, token=ADMIN) as admin:
        found = {one.tenant: one for one in (await admin.ListTenants(admin_pb2.ListTenantsRequest())).tenants}
    assert list(found) == ["alice", "bob", "operations", "services"]
    alice = found["alice"]
    assert (alice.valid_tokens, alice.requests_per_minute, alice.max_tokens) == (1, 1, 0)
    assert (alice.running, alice.requests, alice.refused, alice.generated_tokens) == (0, 1, 1, 24)
    assert (found["bob"].valid_tokens, found["bob"].expired_tokens, found["bob"].requests) == (1, 1, 0)


async def test_only_admins_get_in_with_a_token_file(deploy: Deploy, tmp_path: Path) -> None:
    path = write_tokens(tmp_path / "tokens.yaml", tenants())
    deployment = await deploy(token_file=path)
    await deployment.verifier("v")
    for token, reason in (
        ("", Reason.UNAUTHENTICATED),
        (ALICE, Reason.PERMISSION_DENIED),
        (MEMBER, Reason.PERMISSION_DENIED),
    ):
        async with admin_of(deployment, token=token) as admin:
            for call in (
                admin.Drain(drain("v")),
                admin.Withdraw(withdraw("v")),
                admin.SetPolicy(admin_pb2.SetPolicyRequest(policy="ucb")),
                admin.ListTenants(admin_pb2.ListTenantsRequest()),
            ):
                assert (await refusal_of(call)).reason is reason
    async with admin_of(deployment, token=ADMIN) as admin:
        await admin.Drain(drain("v"))


async def test_with_the_shared_token_it_is_asked_for(deploy: Deploy) -> None:
    deployment = await deploy(token="shared")
    async with admin_of(deployment) as admin:
        assert (await refusal_of(admin.ListTenants(admin_pb2.ListTenantsRequest()))).reason is Reason.UNAUTHENTICATED
    async with admin_of(deployment, token="shared") as admin:
        assert not (await admin.ListTenants(admin_pb2.ListTenantsRequest())).tenants


async def test_each_port_has_its_own_services(deploy: Deploy) -> None:
    deployment = await deploy()
    async with connect(deployment.router.server.address, ClientSettings()) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await admin_pb2_grpc.AdminStub(channel).ListTenants(admin_pb2.ListTenantsRequest())
        assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_where_it_listens(tmp_path: Path) -> None:
    def address(**settings: Any) -> str:
        return admin_address(RouterSettings(**settings))

    assert address() == "127.0.0.1:7701"
    assert address(listen="0.0.0.0:9000") == "127.0.0.1:9001"
    assert address(listen="127.0.0.1:0") == address(listen="127.0.0.1:65535") == address(listen="x") == "127.0.0.1:0"
    assert address(admin="none") == ""
    for loopback in ("127.0.0.1:1", "127.8.8.8:1", "localhost:1", "[::1]:1"):
        assert address(admin=loopback) == loopback
    for reachable in ("0.0.0.0:1", "[::]:1", "10.0.0.1:1", "router.example:1"):
        with pytest.raises(StartupError, match="give --token-file with a token for admin, or --tls-client-ca"):
            address(admin=reachable, token="a shared one is not enough")
        assert address(admin=reachable, token_file=tmp_path / "tokens.yaml") == reachable
        assert address(admin=reachable, tls_client_ca=tmp_path / "ca.pem") == reachable


async def test_it_speaks_the_routers_tls(deploy: Deploy, tmp_path: Path) -> None:
    ours = Authority(tmp_path, "ours")
    own, client = ours.pair("router"), ours.pair("client")
    ca = ours.certificate
    deployment = await deploy(tls_cert=own.certificate, tls_key=own.key, tls_client_ca=ca, admin="0.0.0.0:0")
    shown = {"tls_client_cert": client.certificate, "tls_client_key": client.key}
    address = f"127.0.0.1:{address_of(deployment).rpartition(':')[2]}"
    async with connect(address, ClientSettings(tls_ca=ca, **shown)) as channel:  # type: ignore[arg-type]
        await admin_pb2_grpc.AdminStub(channel).ListTenants(admin_pb2.ListTenantsRequest())
    async with connect(address, ClientSettings(tls_ca=ca)) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await admin_pb2_grpc.AdminStub(channel).ListTenants(admin_pb2.ListTenantsRequest())
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_port_in_use_names_the_setting(deploy: Deploy) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    with taken, pytest.raises(StartupError, match="choose another with --admin host:port"):
        await deploy(admin=f"127.0.0.1:{taken.getsockname()[1]}")


async def test_a_port_that_nobody_asked_for_may_be_another(deploy: Deploy) -> None:
    while True:  # two free ports in a row, of which the second is taken then
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        try:
            taken = socket.create_server(("127.0.0.1", port + 1))
        except OSError:
            continue
        break
    with taken:
        deployment = await deploy(listen=f"127.0.0.1:{port}")
    async with admin_of(deployment) as admin:
        assert not (await admin.ListTenants(admin_pb2.ListTenantsRequest())).tenants
    assert address_of(deployment) != f"127.0.0.1:{port + 1}"


Run = Callable[..., Awaitable["Done"]]


@dataclass
class Done:
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Commands as people give them, in this process."""
    monkeypatch.setenv("COLUMNS", "200")

    async def running(deployment: Deployment | None, *arguments: str, token: str = "") -> Done:
        monkeypatch.setenv("PACELINE_TOKEN", token)
        flags = () if deployment is None else ("--admin", address_of(deployment))
        capsys.readouterr()
        try:
            code = await asyncio.to_thread(run_commands, "paceline-router", "0", COMMANDS, [*arguments, *flags])
        except SystemExit as ended:
            code = int(ended.code or 0)
        return Done(code, *capsys.readouterr())

    return running


async def test_commands(deploy: Deploy, run: Run, tmp_path: Path) -> None:
    path = write_tokens(tmp_path / "tokens.yaml", tenants(max_tokens=9, requests_at_once=2))
    deployment = await deploy(token_file=path)
    await deployment.verifier("v1")
    expected = [
        (("drain", "v1"), "verifier v1 gets nothing new"),
        (("undrain", "v1"), "verifier v1 may have requests"),
        (("withdraw", "v1", "--role", "verifier"), "verifier v1 is withdrawn; its announcements are refused"),
        (("withdraw", "v1", "--undo"), "verifier v1 may announce itself again"),
        (("policy", "ucb"), "policy is ucb; it was linucb"),
        (("tenants",), "2 at once, 9 tokens an answer"),
    ]
    for arguments, words in expected:
        done = await run(deployment, *arguments, token=ADMIN)
        assert (done.code, words in done.out) == (0, True), (arguments, done)
    shown = json.loads((await run(deployment, "tenants", "--json", token=ADMIN)).out)
    assert [one["tenant"] for one in shown["tenants"]] == ["alice", "bob", "operations", "services"]
    for arguments, token, words in (
        (("drain", "v2"), ADMIN, "nobody by the id 'v2' is registered"),
        (("policy", "best"), ADMIN, "there are: linucb"),
        (("drain", "v1"), ALICE, "the token of tenant 'alice' is for client"),
    ):
        done = await run(deployment, *arguments, token=token)
        assert done.code == 1
        assert words in done.err
        assert "Traceback" not in done.err
        assert token not in done.err


async def test_a_made_token_works_with_the_entry_that_it_comes_with(deploy: Deploy, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "tokens.yaml"
    expires = "2999-01-01T00:00:00Z"
    made = await run(None, "token", "acme", "--roles", "client,admin", "--expires", expires)
    token = next(line.strip() for line in made.out.splitlines() if line.strip().startswith("pl_"))
    path.write_text(made.out[made.out.index("tenants:") :])
    assert token not in path.read_text()
    deployment = await deploy(token_file=path)
    await deployment.verifier("v")
    async with stub_with(deployment, token) as stub:
        assert [event async for event in stub.Generate(request_of())]
    as_json = await run(None, "token", "acme", "--json")
    found = json.loads(as_json.out)
    assert (found["tenant"], found["entry"]["roles"]) == ("acme", ["client"])
    assert len(found["token"]) > 40
    for wrong in (("token", "a/b"), ("token", "a", "--roles", "root"), ("token", "a", "--expires", "2999-01-01")):
        done = await run(None, *wrong)
        assert done.code == 2
        assert "Traceback" not in done.err
