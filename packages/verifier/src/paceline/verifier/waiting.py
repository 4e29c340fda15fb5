"""Whether a step should wait for drafts that are on their way.

Starting now commits what the trie promises in one forward pass; waiting adds what an answer of the drafter usually adds
to that promise, and costs the wait. Waiting is worth it when it raises tokens per second. A slow, silent or useless
drafter makes it not worth it by itself, since both its latency and its gain are measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

INITIAL_LATENCY_S = 0.003
INITIAL_GAIN = 0.7
LATENCY_ADAPTATION = 0.2
GAIN_ADAPTATION = 0.2
PATIENCE = 2.0  # deviations beyond the mean after which an answer is overdue
MAX_WAIT_S = 0.25


@dataclass(slots=True)
class Latency:
    """Running mean and mean deviation of how long a drafter takes to answer a commit, in seconds."""

    mean_s: float = INITIAL_LATENCY_S
    deviation_s: float = INITIAL_LATENCY_S / 2

    def observe(self, seconds: float) -> None:
        error = seconds - self.mean_s
        self.mean_s += LATENCY_ADAPTATION * error
        self.deviation_s += LATENCY_ADAPTATION * (abs(error) - self.deviation_s)

    @property
    def patience_s(self) -> float:
        """An answer that takes longer than this is not coming in time."""
        return self.mean_s + PATIENCE * self.deviation_s


@dataclass(slots=True)
class Gain:
    """Running mean of what an answer adds to the tokens that a step is expected to commit.

    Not what was accepted of the drafter: of that, a part was there before the answer, from itself (an earlier tree, one
    drafted ahead) or from others, and needs no waiting for.
    """

    tokens: float = INITIAL_GAIN

    def observe(self, added: float, weight: float = 1.0) -> None:
        """An answer raised the expectation by so many tokens; weight: in answers."""
        self.tokens += GAIN_ADAPTATION * weight * (added - self.tokens)


@dataclass(frozen=True, slots=True)
class Pending:
    """A draft under way: it should be here in `arrives_in_s` and then adds `gain` tokens to the step."""

    arrives_in_s: float
    gain: float


def worthwhile_wait(pending: Sequence[Pending], expected_tokens: float, step_s: float) -> float:
    """Seconds to wait before the step, 0 for none.

    Args:
        pending: drafts under way.
        expected_tokens: what the step would commit if it started now.
        step_s: what the step takes.
    """
    best_rate = expected_tokens / step_s
    best_wait_s = 0.0
    tokens = expected_tokens
    for draft in sorted(pending, key=lambda draft: draft.arrives_in_s):
        if draft.arrives_in_s > MAX_WAIT_S:
            break  # to wait and then start without it would be the worst of all
        tokens += draft.gain
        rate = tokens / (step_s + draft.arrives_in_s)
        if rate > best_rate:
            best_rate, best_wait_s = rate, draft.arrives_in_s
    return best_wait_s
