"""A checked request."""

from __future__ import annotations

from dataclasses import dataclass

from paceline.verifier.sampling import Sampling


@dataclass(frozen=True, slots=True)
class Speculation:
    """Who may draft for a request. `drafters` None means every drafter that is connected, () means none.

    Entries are drafter ids or names; max_nodes bounds the candidates of one step, 0 takes the verifier's default.
    shadow is how many drafters that are not engaged may be scored on each segment's text.
    """

    drafters: tuple[str, ...] | None = None
    max_nodes: int = 0
    shadow: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asked for, in tokens and within bounds.

    Attributes:
        prompt: token ids, at least one.
        committed: tokens of the answer that the client already has; generation goes on after them.
        max_tokens: of the answer, committed ones included.
        segment_tokens: tokens between outcomes, 0 for only one at the end.
        log_probs: how many of the likeliest tokens to tell with each token's log-probability; None tells nothing.
        json_schema: as JSON text; the answer is a document that it admits.
        steps: of how many candidates of each step to tell; None tells of no steps.
    """

    request_id: str
    prompt: tuple[int, ...]
    sampling: Sampling
    max_tokens: int
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    speculation: Speculation = Speculation()
    tenant: str = ""
    no_store: bool = False
    committed: tuple[int, ...] = ()
    segment_tokens: int = 0
    log_probs: int | None = None
    json_schema: str | None = None
    steps: int | None = None

    @property
    def teaches(self) -> bool:
        """Whether the trainer may learn from it. What a grammar forced is not what the target would say: a drafter that
        learned it would propose JSON to those who want prose."""
        return not self.no_store and self.json_schema is None
