"""What a loss is."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from paceline.trainer.learning.targets import Targets, malformed


class Objective(Protocol):
    """A loss of each position, which depends on that position alone: that is what makes chunks possible."""

    def __call__(self, log_probs: Tensor, targets: Targets) -> Tensor:
        """The loss [n].

        Args:
            log_probs: the student's log-probabilities [n, vocab_size], at the targets' temperature.
            targets: of the same n positions.
        """


def check_shape(log_probs: Tensor, targets: Targets) -> None:
    """Raises MALFORMED if the student speaks of other positions or another vocabulary."""
    if tuple(log_probs.shape) != (len(targets), targets.vocab_size):
        raise malformed("log_probs", f"shape {list(log_probs.shape)}", f"[{len(targets)}, {targets.vocab_size}]")
