"""A service that announced itself."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class Work:
    """What a verifier has done since it started, by its own clock; routers only pass it on.

    Attributes:
        clock_s: when these were counted, since it started to serve.
        prompt_tokens, generated_tokens, session_steps, draft_tokens, accepted_tokens: see VerifierWork in router.proto.
        running, queued: now.
        drafters: (name, candidates verified, accepted) of each.
    """

    clock_s: float
    prompt_tokens: int
    generated_tokens: int
    session_steps: int
    draft_tokens: int
    accepted_tokens: int
    running: int
    queued: int
    drafters: tuple[tuple[str, int, int], ...] = ()


class Role(Enum):
    VERIFIER = "verifier"
    DRAFTER = "drafter"
    TRAINER = "trainer"


@dataclass(frozen=True, slots=True)
class Member:
    """What a service says of itself; checked (see `paceline.router.convert.member_from_proto`).

    Attributes:
        member_id: unique within its role.
        name: what people call it; several drafters may share one.
        address: host:port, empty for a drafter.
        model, tokenizer_hash: the target that a verifier hosts.
        load: running plus queued sessions of a verifier.
        capacity: sessions a verifier runs at once.
        draining: finish what runs, send nothing new.
        connected: ids of the drafters on a verifier's streams.
        own: a drafter that serves only requests that name its id.
        trial_of: id of the drafter that this one would replace, and is tried in place of on a few requests.
        package, version, protocol: who it is, for people.
        work: what a verifier has done, if it tells.
    """

    member_id: str
    role: Role
    name: str = ""
    address: str = ""
    model: str = ""
    tokenizer_hash: str = ""
    strategies: tuple[str, ...] = ()
    revision: str = ""
    load: int = 0
    capacity: int = 0
    draining: bool = False
    connected: tuple[str, ...] = ()
    own: bool = False
    trial_of: str = ""
    package: str = ""
    version: str = ""
    protocol: tuple[int, int] = (0, 0)
    work: Work | None = None
