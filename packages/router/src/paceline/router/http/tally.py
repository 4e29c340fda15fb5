"""What is known of one choice while it comes."""

from __future__ import annotations

from collections.abc import Iterable

from paceline.router.http.responses import FinishReason, Metrics, Usage
from paceline.router.http.speculation import Acceptance
from paceline.v1 import generation_pb2

_REASONS: dict[generation_pb2.FinishReason, FinishReason] = {
    generation_pb2.FINISH_REASON_STOP: "stop",
    generation_pb2.FINISH_REASON_LENGTH: "length",
}


class Tally:
    """Counts one choice.

    Attributes:
        prompt_tokens, num_tokens: of the prompt and of the answer so far.
        finish_reason: None until it ends.
        total: what came of it, None until it ends.
    """

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.num_tokens = 0
        self.finish_reason: FinishReason | None = None
        self.total: generation_pb2.Outcome | None = None
        self._acceptance = Acceptance()

    def started(self, started: generation_pb2.Started) -> None:
        self.prompt_tokens = started.prompt_tokens

    def committed(self, tokens: generation_pb2.Tokens) -> None:
        self.num_tokens += len(tokens.ids)
        self._acceptance.committed(tokens.sources)

    def finished(self, finished: generation_pb2.Finished) -> None:
        self.finish_reason = _REASONS.get(finished.reason, "stop")
        self.total = finished.total

    def metrics(self) -> Metrics | None:
        """Of a finished choice; None if there was no speculation in it."""
        figures = self._acceptance.summary(self.total) if self.total is not None else None
        return Metrics(speculative_decoding=figures) if figures is not None else None


def usage_of(tallies: Iterable[Tally], prompts_of: int) -> Usage:
    """Over all choices; a prompt counts once, however many choices it has (`prompts_of`)."""
    tallies = list(tallies)
    prompt = sum(tally.prompt_tokens for tally in tallies[::prompts_of])
    completion = sum(tally.num_tokens for tally in tallies)
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)
