"""What the target said at n positions, in the student's vocabulary."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from paceline.wire.errors import PacelineError, Reason, out_of_range

UNSAYABLE = -1  # as a token: no single token of the student says it; as a top id: also padding
EPSILON = 1e-3  # by which the k probabilities may add up to more than 1: they come from bfloat16 models
MAX_TEMPERATURE = 100.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Targets:
    """What a student should say at n positions. All tensors lie on one device.

    What the target gives to tokens beyond its best k, and to tokens that the student has none for, is one lumped mass:
    1 - sum(exp(top_log_probs)).

    Raises OUT_OF_RANGE or MALFORMED when made of anything else than what is described here.

    Attributes:
        tokens: int64 [n], what the target chose; UNSAYABLE where no token of the student says it.
        top_ids: int64 [n, k], each once in a row, in any order; UNSAYABLE is padding.
        top_log_probs: float [n, k], their log-probabilities; -inf where top_ids is padding and nowhere else.
        temperature: that top_log_probs are of. The student's log-probabilities must be of the same.
        vocab_size: of the student; ids are below it.
    """

    tokens: Tensor
    top_ids: Tensor
    top_log_probs: Tensor
    temperature: float
    vocab_size: int

    def __post_init__(self) -> None:
        self._check_shapes()
        if not (math.isfinite(self.temperature) and 0.0 < self.temperature <= MAX_TEMPERATURE):
            raise out_of_range("temperature", self.temperature, f"above 0 and at most {MAX_TEMPERATURE:g}")
        for name, ids in (("tokens", self.tokens), ("top_ids", self.top_ids)):
            if ids.numel() and not (int(ids.min()) >= UNSAYABLE and int(ids.max()) < self.vocab_size):
                raise out_of_range(
                    name, f"from {int(ids.min())} to {int(ids.max())}", f"{UNSAYABLE}, or below {self.vocab_size}"
                )
        self._check_top()

    def __len__(self) -> int:
        return len(self.tokens)

    def rows(self, start: int, stop: int) -> Self:
        """Positions start to stop; nothing is copied, and nothing checked again."""
        part = copy.copy(self)
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                object.__setattr__(part, field.name, value[start:stop])
        return part

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        moved = copy.copy(self)
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                object.__setattr__(moved, field.name, value.to(device))
        return moved

    def _check_shapes(self) -> None:
        shape = tuple(self.top_ids.shape)
        if self.tokens.dtype != torch.int64 or self.tokens.dim() != 1:
            raise malformed("tokens", f"{self.tokens.dtype} {list(self.tokens.shape)}", "int64 [n]")
        if self.top_ids.dtype != torch.int64 or len(shape) != 2 or shape[0] != len(self):
            raise malformed("top_ids", f"{self.top_ids.dtype} {list(shape)}", f"int64 [{len(self)}, k]")
        if not self.top_log_probs.is_floating_point() or tuple(self.top_log_probs.shape) != shape:
            given = f"{self.top_log_probs.dtype} {list(self.top_log_probs.shape)}"
            raise malformed("top_log_probs", given, f"a float type and shape {list(shape)}")

    def _check_top(self) -> None:
        named = self.top_ids != UNSAYABLE
        if not bool(torch.where(named, self.top_log_probs.isfinite(), self.top_log_probs == -math.inf).all()):
            raise malformed("top_log_probs", "other numbers", "finite ones for ids and -inf for padding")
        sums = self.top_log_probs.double().exp().sum(dim=-1)
        if len(sums) and float(sums.max()) > 1.0 + EPSILON:
            raise out_of_range("top_log_probs", f"{float(sums.max()):.6g} as a sum of probabilities", "at most 1")
        ordered = self.top_ids.sort(dim=-1).values
        if bool(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != UNSAYABLE)).any()):
            raise malformed("top_ids", "a token twice in a row", "each token once; add their probabilities")


def malformed(field: str, value: object, limit: str) -> PacelineError:
    """A tensor of another kind than is needed."""
    return PacelineError(
        Reason.MALFORMED, f"{field} has {value}; it must have {limit}", field=field, value=value, limit=limit
    )
