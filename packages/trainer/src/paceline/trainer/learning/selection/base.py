"""What is known of positions when one chooses among them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from paceline.trainer.learning.targets import malformed
from paceline.wire.errors import out_of_range


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """n positions of sequences that lie one behind the other. Raises MALFORMED or OUT_OF_RANGE if it isn't that.

    Attributes:
        accepted: bool [n], the target's token had been proposed (`Lesson.accepted`).
        right: bool [n], the target's token is the student's likeliest (`chunked.read`).
        entropy: float [n], of the student, in nats (`chunked.read`).
        divergence: float [n], total variation distance of student and target, from 0 to 1 (`chunked.read`).
        starts: int64 [s], where sequences begin: 0 first, increasing, below n.
    """

    accepted: Tensor
    right: Tensor
    entropy: Tensor
    divergence: Tensor
    starts: Tensor

    def __post_init__(self) -> None:
        shape = self.accepted.shape
        if self.accepted.dtype != torch.bool or self.accepted.dim() != 1:
            raise malformed("accepted", f"{self.accepted.dtype} {list(shape)}", "bool [n]")
        if self.right.dtype != torch.bool or self.right.shape != shape:
            raise malformed("right", f"{self.right.dtype} {list(self.right.shape)}", f"bool {list(shape)}")
        for name, most in (("entropy", math.inf), ("divergence", 1.0 + 1e-3)):
            values = getattr(self, name)
            if not values.is_floating_point() or values.shape != shape:
                raise malformed(name, f"{values.dtype} {list(values.shape)}", f"a float type and shape {list(shape)}")
            if not bool((values.isfinite() & (values >= -1e-3) & (values <= most)).all()):
                raise out_of_range(name, "not", f"finite and from 0 to {most:g} everywhere")
        starts = self.starts
        ordered = starts.dtype == torch.int64 and starts.dim() == 1 and bool((starts[1:] > starts[:-1]).all())
        bounded = len(starts) == 0 if len(self) == 0 else len(starts) > 0 and int(starts[0]) == 0
        if not ordered or not bounded or (len(starts) and int(starts[-1]) >= len(self)):
            raise malformed("starts", "other numbers", f"int64 [s], increasing from 0 and below {len(self)}")

    def __len__(self) -> int:
        return len(self.accepted)

    @property
    def lengths(self) -> Tensor:
        """int64 [s], of the sequences."""
        return torch.diff(self.starts, append=self.starts.new_tensor([len(self)]))

    @property
    def offsets(self) -> Tensor:
        """int64 [n], how far each position is from its sequence's start."""
        return torch.arange(len(self), device=self.starts.device) - self.starts.repeat_interleave(self.lengths)


class Selection(Protocol):
    """Weights of positions in the loss. Weights of two selections multiply."""

    def __call__(self, evidence: Evidence) -> Tensor:
        """float32 [n], finite, from 0 to 1; 0 leaves a position out."""
