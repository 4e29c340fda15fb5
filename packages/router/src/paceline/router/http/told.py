"""What a stream's chunks tell of steps (`paceline` in a chunk), for requests with `paceline.steps`."""

from __future__ import annotations

from pydantic import BaseModel


class ToldToken(BaseModel):
    """One token of a chunk."""

    id: int
    bytes: list[int] | None
    """That it stands for, which need not be whole characters; null from a verifier before protocol 1.5."""
    source: str | None
    """Who proposed it, as drafter/strategy; null is the target itself."""


class ToldNode(BaseModel):
    """One candidate token."""

    id: int
    bytes: list[int]
    parent: int
    """Index of the candidate that it follows; -1 is the text before the step."""
    sources: list[str]
    """Who proposed it, as drafter/strategy, the first one first."""
    probability: float
    """That it becomes output, as estimated before the step."""
    accepted: bool


class ToldStep(BaseModel):
    """A forward pass of the target: what it verified for this choice. Times are in seconds."""

    nodes: list[ToldNode]
    """Parents before children."""
    hidden_nodes: int
    """Verified and not among `nodes`."""
    step_s: float
    """Of the pass, over everything that was in it."""
    wait_s: float
    """That the verifier waited for drafts before it."""
    rows: int
    """Of the pass, over everything that was in it."""
    plain_step_s: float
    """That a pass without candidates would take, by the verifier's cost model."""


class ToldDrafter(BaseModel):
    drafter: str
    strategy: str
    proposed: int
    """Its candidates that were verified."""
    accepted: int
    """Those of them that became output."""
    stale: int
    """Its trees that came too late."""
    refused: int
    """Its messages that were malformed."""


class ToldOutcome(BaseModel):
    """What a choice took, times in seconds. `plain_s` is what its tokens would have taken without speculation."""

    tokens: int
    steps: int
    nodes: int
    verify_s: float
    plain_s: float
    wait_s: float
    prefill_s: float
    elapsed_s: float
    prompt_tokens: int
    drafters: list[ToldDrafter]


class Told(BaseModel):
    """What a chunk says besides, if `paceline.steps` asks for it: of its tokens and the step that brought them, or at
    a choice's end of its outcome. `step` is null if the verifier doesn't tell."""

    tokens: list[ToldToken] | None = None
    step: ToldStep | None = None
    outcome: ToldOutcome | None = None
