"""How well drafts did in one choice, in vLLM's shape (`metrics.speculative_decoding`)."""

from __future__ import annotations

from collections.abc import Sequence

from paceline.router.http.responses import SpeculativeDecoding
from paceline.v1 import generation_pb2


class Acceptance:
    """Counts from each token's source how many candidates steps accepted.

    A step ends with a token of the target's own (source 0), before which stand the candidates it accepted. So each
    run of candidates is one step; an answer may end within its last.
    """

    def __init__(self) -> None:
        self._runs: dict[int, int] = {}  # length: how often
        self._run = 0

    def committed(self, sources: Sequence[int]) -> None:
        for source in sources:
            if source:
                self._run += 1
            else:
                self._end_run()

    def summary(self, total: generation_pb2.Outcome) -> SpeculativeDecoding | None:
        """The figures of the whole answer; None if no candidate was ever verified. Call it once, at the end."""
        self._end_run()
        accepted = sum(length * count for length, count in self._runs.items())
        if not total.nodes or not total.steps or accepted > total.nodes:
            return None
        steps = max(total.steps, sum(self._runs.values()))
        histogram = [self._runs.get(length, 0) for length in range(max(self._runs, default=0) + 1)]
        histogram[0] = steps - sum(histogram)
        return SpeculativeDecoding(
            mean_acceptance_length=1.0 + accepted / steps,
            draft_acceptance_rate=accepted / total.nodes,
            acceptance_histogram=histogram,
            num_spec_steps=steps,
            num_accepted_draft_tokens=accepted,
            num_draft_tokens=total.nodes,
        )

    def _end_run(self) -> None:
        if self._run:
            self._runs[self._run] = self._runs.get(self._run, 0) + 1
            self._run = 0
