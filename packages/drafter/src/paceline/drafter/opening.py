"""A session as a verifier announces it."""

from __future__ import annotations

from dataclasses import dataclass, field

from paceline.drafter.features import Features
from paceline.drafter.strategies.base import Sampling


@dataclass(frozen=True, slots=True)
class Opening:
    """What SessionOpened says. max_nodes 0 sets no bound of its own.

    shadow: its text is known already, and nothing of it may be remembered.

    features: for a head that takes over in mid-session, what the one before was told of the text; verifiers tell none.

    traceparent: of the request's span; empty if the verifier traces nothing.
    """

    session_id: int
    tokens: tuple[int, ...]
    digest: int
    prompt_tokens: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    memory_key: bytes = b""
    max_nodes: int = 0
    least_value: float = 0.0
    shadow: bool = False
    features: Features | None = None
    traceparent: str = ""
