"""The version of paceline-protos and of the protocol itself, and who may talk to whom."""

from __future__ import annotations

from paceline.v1 import types_pb2
from paceline.wire.errors import PacelineError, Reason

VERSION = "0.2.0"

# Peers with another major can't talk to each other; a minor adds what the other side may ignore.
PROTOCOL_MAJOR = 1
PROTOCOL_MINOR = 5
"""What each minor version added:

1: Hello.own, answers in several trees, Ping and Pong, SessionOpened.least_value, Commit.step_us.
2: features with commits, Hello.revision, drafters on trial, signed and withdrawn revisions.
3: GenerateRequest.log_probs, Tokens.log_probs, GenerateRequest.constraint; a verifier before 1.3 ignores them silently.
4: service Admin, GenerateRequest.most_tokens (a verifier before 1.4 ignores it silently), Speculation.shadow,
   Outcome.shadows, SessionOpened.shadow.
5: GenerateRequest.steps with GenerateEvent.step and Tokens.pieces; a verifier before 1.5 sends neither.
   SessionOpened.traceparent. Member.work, what a verifier has done.
"""


def make_peer(package: str, version: str) -> types_pb2.Peer:
    """What this side says of itself."""
    return types_pb2.Peer(
        package=package, version=version, protocol_major=PROTOCOL_MAJOR, protocol_minor=PROTOCOL_MINOR
    )


def check_peer(peer: types_pb2.Peer) -> None:
    """Raises INCOMPATIBLE_VERSION unless the other side speaks this protocol's major version."""
    if peer.protocol_major == PROTOCOL_MAJOR:
        return
    theirs = f"{peer.protocol_major}.{peer.protocol_minor}"
    ours = f"{PROTOCOL_MAJOR}.{PROTOCOL_MINOR}"
    raise PacelineError(
        Reason.INCOMPATIBLE_VERSION,
        f"{peer.package or 'the peer'} {peer.version or 'of unknown version'} speaks protocol {theirs}, this side "
        f"speaks {ours}; install releases with the same protocol major version on both sides",
        field="peer.protocol_major",
        value=peer.protocol_major,
        limit=PROTOCOL_MAJOR,
    )
