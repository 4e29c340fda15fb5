"""The commands that ask something of a running router: drain, undrain, withdraw, policy, tenants."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table
from rich.text import Text

from paceline.router.convert import role_to_proto
from paceline.router.member import Role
from paceline.router.settings import (
    AdminSettings,
    DrainSettings,
    MemberSettings,
    PolicySettings,
    TenantsSettings,
    UndrainSettings,
    WithdrawSettings,
)
from paceline.v1 import admin_pb2, admin_pb2_grpc, router_pb2
from paceline.wire.channel import connect
from paceline.wire.settings import StartupError
from paceline.wire.tls import hint

TIMEOUT_S = 10.0
R = TypeVar("R", bound=Message)


def drain(settings: DrainSettings) -> int:
    """Exit code 0; StartupError says what the router answered otherwise. So do all of these."""
    response = _drained(settings, undo=False)
    running = f"; {response.running} requests of this router run at it" if response.running else ""
    return _say(settings, response, f"{_name(response.member.role, response.member.id)} gets nothing new{running}")


def undrain(settings: UndrainSettings) -> int:
    response = _drained(settings, undo=True)
    draining = "; it says itself that it is draining" if response.member.draining else ""
    return _say(settings, response, f"{_name(response.member.role, response.member.id)} may have requests{draining}")


def withdraw(settings: WithdrawSettings) -> int:
    request = admin_pb2.WithdrawMemberRequest(id=settings.member_id, role=_role(settings), undo=settings.undo)
    response = _asked(settings, lambda stub: stub.Withdraw(request, timeout=TIMEOUT_S))
    what = "may announce itself again" if settings.undo else "is withdrawn; its announcements are refused"
    return _say(settings, response, f"{_name(response.role, settings.member_id)} {what}")


def change_policy(settings: PolicySettings) -> int:
    request = admin_pb2.SetPolicyRequest(policy=settings.policy)
    response = _asked(settings, lambda stub: stub.SetPolicy(request, timeout=TIMEOUT_S))
    return _say(settings, response, f"policy is {response.policy}; it was {response.before}")


def show_tenants(settings: TenantsSettings) -> int:
    response = _asked(settings, lambda stub: stub.ListTenants(admin_pb2.ListTenantsRequest(), timeout=TIMEOUT_S))
    if settings.as_json:
        return _say(settings, response, "")
    Console().print(tenants_table(response))
    return 0


def tenants_table(response: admin_pb2.ListTenantsResponse) -> Table:
    """What each tenant uses, and of how much."""
    table = Table("tenant", title="tenants")
    for heading in ("tokens", "running", "requests", "refused", "generated", "limits"):
        table.add_column(heading, justify="left" if heading == "limits" else "right")
    for one in response.tenants:
        tokens = f"{one.valid_tokens}" + (f" (+{one.expired_tokens} expired)" if one.expired_tokens else "")
        limits = (
            (one.requests_at_once, "at once"),
            (one.requests_per_minute, "requests/min"),
            (one.tokens_per_minute, "tokens/min"),
            (one.prompt_bytes, "bytes a prompt"),
            (one.prompt_tokens, "tokens a prompt"),
            (one.max_tokens, "tokens an answer"),
        )
        said = ", ".join(f"{limit} {unit}" for limit, unit in limits if limit) or "none"
        counts = (one.running, one.requests, one.refused, one.generated_tokens)
        table.add_row(*(Text(cell) for cell in (one.tenant, tokens, *map(str, counts), said)))
    return table


def _drained(settings: MemberSettings, undo: bool) -> admin_pb2.DrainMemberResponse:
    request = admin_pb2.DrainMemberRequest(id=settings.member_id, role=_role(settings), undo=undo)
    return _asked(settings, lambda stub: stub.Drain(request, timeout=TIMEOUT_S))


def _role(settings: MemberSettings) -> router_pb2.Role:
    return role_to_proto(Role(settings.role)) if settings.role else router_pb2.ROLE_UNSPECIFIED


def _name(role: router_pb2.Role, member_id: str) -> str:
    return f"{router_pb2.Role.Name(role).removeprefix('ROLE_').lower()} {member_id}"


def _asked(settings: AdminSettings, ask: Callable[[Any], Awaitable[R]]) -> R:
    """The router's answer. Raises StartupError."""

    async def asking() -> R:
        channel = connect(settings.admin, settings)
        try:
            return await ask(admin_pb2_grpc.AdminStub(channel))
        except grpc.aio.AioRpcError as error:
            why = hint(error.details() or "", settings) or error.details()
            raise StartupError(f"the router's admin port at {settings.admin}: {why}") from error
        finally:
            await channel.close(grace=None)

    return asyncio.run(asking())


def _say(settings: AdminSettings, response: Message, words: str) -> int:
    if settings.as_json:
        print(MessageToJson(response, preserving_proto_field_name=True, always_print_fields_with_no_presence=True))
    else:
        Console(highlight=False).print(Text(words))  # as text: others' names must not be read as markup
    return 0
