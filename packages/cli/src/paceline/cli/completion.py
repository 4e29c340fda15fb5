"""What a shell may offer for an option's value. It is asked at each press of a key, so it is quick or silent."""

from __future__ import annotations

import asyncio

from paceline.cli.settings import RouterSettings
from paceline.v1 import router_pb2, router_pb2_grpc
from paceline.wire.channel import connect

PATIENCE_S = 0.5


def drafter_names(incomplete: str) -> list[str]:
    """Names of drafters that begin so, at the router that the environment names."""
    try:
        names = asyncio.run(_names())
    except Exception:  # a completion that fails has nothing to offer, and nowhere to complain
        return []
    return sorted(name for name in names if name.startswith(incomplete))


async def _names() -> set[str]:
    settings = RouterSettings()
    async with connect(settings.address, settings) as channel:
        stub = router_pb2_grpc.RouterStub(channel)
        status = await stub.GetStatus(router_pb2.GetStatusRequest(), timeout=PATIENCE_S)
    return {member.name for member in status.members if member.role == router_pb2.ROLE_DRAFTER}
