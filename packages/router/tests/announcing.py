"""Announces played verifiers to a router in another process."""

from __future__ import annotations

from typing import Any

from conftest import FakeVerifier

from paceline.v1 import router_pb2
from paceline.wire.version import make_peer


async def announce(registry: Any, verifier: FakeVerifier, protocol_minor: int | None = None) -> None:
    peer = make_peer("test", "0")
    if protocol_minor is not None:
        peer.protocol_minor = protocol_minor
    members = [
        router_pb2.Member(id=key, role=router_pb2.ROLE_DRAFTER, name=name, peer=peer)
        for key, name in verifier.drafters.items()
    ]
    members.append(
        router_pb2.Member(
            id=verifier.verifier_id,
            role=router_pb2.ROLE_VERIFIER,
            address=verifier.address,
            model=verifier.model,
            tokenizer_hash=verifier.tokenizer_hash,
            capacity=4,
            connected=list(verifier.drafters),
            peer=peer,
        )
    )
    for member in members:
        await registry.Announce(router_pb2.AnnounceRequest(member=member))
