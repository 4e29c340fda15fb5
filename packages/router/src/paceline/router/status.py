"""The `status` command: asks a router how things stand, and prints it."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
from google.protobuf.json_format import MessageToJson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from paceline.router.convert import arm_label
from paceline.router.settings import StatusSettings
from paceline.v1 import router_pb2, router_pb2_grpc
from paceline.wire.channel import connect
from paceline.wire.settings import StartupError
from paceline.wire.tls import hint
from paceline.wire.version import check_peer

TIMEOUT_S = 10.0


def show_status(settings: StatusSettings) -> int:
    """Prints a router's status; returns the exit code. Raises StartupError if it can't be asked."""
    response = asyncio.run(_ask(settings))
    check_peer(response.peer)
    if settings.as_json:
        print(MessageToJson(response, preserving_proto_field_name=True, always_print_fields_with_no_presence=True))
        return 0
    console = Console()
    console.print(members_table(response))
    console.print(arms_table(response))
    console.print(f"requests: {response.active_requests} active, {response.finished_requests} finished")
    return 0


async def _ask(settings: StatusSettings) -> router_pb2.GetStatusResponse:
    channel = connect(settings.router, settings)
    try:
        stub = router_pb2_grpc.RouterStub(channel)
        return await stub.GetStatus(router_pb2.GetStatusRequest(), timeout=TIMEOUT_S)
    except grpc.aio.AioRpcError as error:
        why = hint(error.details() or "", settings) or error.details()
        raise StartupError(f"the router at {settings.router} can't be asked: {why}") from error
    finally:
        await channel.close(grace=None)


def members_table(response: router_pb2.GetStatusResponse) -> Table:
    """Who is registered."""
    table = Table("role", "id", "name", "address", "model", "load", "drafters", "version", title="members")
    for member in response.members:
        role = router_pb2.Role.Name(member.role).removeprefix("ROLE_").lower()
        is_verifier = member.role == router_pb2.ROLE_VERIFIER
        load = f"{member.load}/{member.capacity}" if is_verifier else ""
        row = (
            role + (" (draining)" if member.draining else ""),
            member.id,
            member.name,
            member.address,
            member.model,
            load,
            str(len(member.connected)) if is_verifier else "",
            member.peer.version,
        )
        table.add_row(*(Text(cell) for cell in row))  # as text: others' names must not be read as markup
    return table


def arms_table(response: router_pb2.GetStatusResponse) -> Table:
    """What the router believes of the arms that can be chosen."""
    table = Table("model", "arm", title=f"arms (policy {response.policy})")
    for heading in ("segments", "speed", "bonus"):
        table.add_column(heading, justify="right")
    for arm in response.arms:
        row = (
            arm.model,
            arm_label(arm),
            f"{arm.pulls:.1f}",
            f"{arm.mean_reward:.2f}x" if arm.pulls else "-",
            f"{arm.bonus:.2f}",
        )
        table.add_row(*(Text(cell) for cell in row))
    return table
