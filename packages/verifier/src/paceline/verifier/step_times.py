"""How long steps take while they serve: what planning, waiting and reading prompts go by. Pure; times are arguments."""

from __future__ import annotations

import math
from dataclasses import dataclass

from paceline.verifier.cost import ForwardCost
from paceline.verifier.waiting import MAX_WAIT_S

ADAPTATION = 0.05
READING_ADAPTATION = 0.2
MAX_READING_ERROR = 4.0


@dataclass(frozen=True, slots=True)
class TimedStep:
    """A step that is over.

    Attributes:
        num_rows: of its forward pass.
        num_sessions: that had a part in it.
        num_reading: of those, sessions that were reading their prompt.
        seconds: it took.
        between_s: since the step before ended, the wait for drafts included; None if there was nothing to do meanwhile.
    """

    num_rows: int
    num_sessions: int
    num_reading: int
    seconds: float
    between_s: float | None


class StepTimes:
    """Expected times, kept current by `observe`.

    Args:
        cost: of a forward pass, as measured at the start.
    """

    def __init__(self, cost: ForwardCost) -> None:
        self.cost = cost
        self._between_s = 0.0
        self._usual_s = 0.0  # from a step to the next, while no prompt is read; 0 is not known
        self._usual_nodes = 0.0  # candidates of a step, while no prompt is read
        self._reading_error = 1.0  # of the cost, for steps that read a prompt beside others

    def seconds(self, num_rows: int) -> float:
        """What a step of so many rows takes, until the next can start."""
        return self.cost.seconds(num_rows) + self._between_s

    def reading_seconds(self, num_rows: int) -> float:
        """The same for a step that reads a part of a prompt beside other sessions' rows."""
        return (self.cost.seconds(num_rows) + self._between_s) * self._reading_error

    def plain_seconds(self, num_decoding: int, num_tokens: int, prompt_rows: int) -> float:
        """What passes without candidates would take for a step that brought sessions so many tokens, and read so many
        of other sessions' prompts besides. num_decoding: 1 or more."""
        first_s = self.cost.seconds(num_decoding + prompt_rows) * (self._reading_error if prompt_rows else 1.0)
        return first_s + (num_tokens - num_decoding) / num_decoding * self.cost.seconds(num_decoding)

    @property
    def least_value(self) -> float:
        """Tokens that a candidate must promise: less can't pay, whatever else the step does."""
        plain_s = self.cost.seconds(1)
        return self.cost.least_value * plain_s / (plain_s + self._between_s)

    def usual_s(self, num_decoding: int) -> float:
        """From a step to the next while no prompt is read, with so many sessions decoding if that isn't known yet."""
        return self._usual_s or self.cost.seconds(max(1, num_decoding)) + self._between_s

    @property
    def usual_nodes(self) -> int:
        """Candidates of a step while no prompt is read, rounded up."""
        return math.ceil(self._usual_nodes)

    def observe(self, step: TimedStep) -> None:
        """Learns from a step."""
        if not step.num_reading:
            self.cost.observe(step.num_rows, step.seconds)
        elif step.num_reading < step.num_sessions:
            # A long prompt's later parts take longer than the cost, which knows no contexts, says.
            error = min(MAX_READING_ERROR, step.seconds / self.cost.seconds(step.num_rows))
            self._reading_error += READING_ADAPTATION * (error - self._reading_error)
        if step.between_s is None:
            return
        self._between_s += ADAPTATION * (min(step.between_s, MAX_WAIT_S) - self._between_s)
        if not step.num_reading:
            nodes, seconds = step.num_rows - step.num_sessions, step.between_s + step.seconds
            self._usual_nodes += ADAPTATION * (nodes - self._usual_nodes)
            self._usual_s += ADAPTATION * (seconds - self._usual_s) if self._usual_s else seconds


class Regardless(StepTimes):
    """For `--drafting always`: planning believes that a step takes as long whatever it verifies, so every candidate
    that has room is verified, and drafts are waited for while they add anything. Prompts are read as ever."""

    def seconds(self, num_rows: int) -> float:
        """Always the same."""
        return 1.0

    @property
    def least_value(self) -> float:
        """Every candidate pays."""
        return 0.0
