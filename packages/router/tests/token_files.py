"""Token files for tests: one token a name, and channels of who has it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from conftest import Deployment

from paceline.router.access.table import digest_of
from paceline.v1 import router_pb2_grpc
from paceline.wire.channel import connect
from paceline.wire.settings import ClientSettings

ALICE, BOB, OLD, MEMBER, ADMIN, ALL = (
    f"secret-of-{name}" for name in ("alice", "bob", "old", "member", "admin", "all")
)
SECRETS = (ALICE, BOB, OLD, MEMBER, ADMIN, ALL)
LONG_AGO = "2020-02-02T02:02:02Z"


def entry(token: str, *roles: str, expires: str | None = None) -> dict[str, Any]:
    made: dict[str, Any] = {"sha256": digest_of(token).hex(), "roles": list(roles or ("client",))}
    return made | ({"expires": expires} if expires else {})


def tenants(**limits: Any) -> dict[str, Any]:
    """Alice, who has these limits, Bob, whose old token has expired, and those who run the deployment."""
    return {
        "alice": {"tokens": [entry(ALICE)], "limits": limits},
        "bob": {"tokens": [entry(BOB), entry(OLD, expires=LONG_AGO)]},
        "services": {"tokens": [entry(MEMBER, "member")]},
        "operations": {"tokens": [entry(ADMIN, "admin"), entry(ALL, "client", "member", "admin")]},
    }


def write_tokens(path: Path, found: dict[str, Any]) -> Path:
    """Whole or not at all, as an administrator should."""
    temporary = path.with_name(f"{path.name}.new")
    temporary.write_text(json.dumps({"tenants": found}))  # JSON is YAML, too
    temporary.replace(path)
    return path


@asynccontextmanager
async def stub_with(deployment: Deployment, token: str) -> AsyncIterator[Any]:
    async with connect(deployment.router.server.address, ClientSettings(token=token)) as channel:
        yield router_pb2_grpc.RouterStub(channel)
