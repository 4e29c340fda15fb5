"""What a step does to a module's trainable parameters, with everything that a run has to remember of it by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from paceline.trainer.training.rules import RULES


class Optimizer:
    """Parameters, a rule for them, and averaged weights.

    Args:
        module: parameters that require gradients are fitted, in the order of their names; others are left alone.
        rule: its name in RULES.
        weight_decay: of matrices; vectors (norms) have none.
        max_grad_norm: gradients are scaled down to it.
        ema_decay: of the averaged weights; 0 keeps none.
    """

    def __init__(
        self, module: nn.Module, rule: str, weight_decay: float, max_grad_norm: float, ema_decay: float
    ) -> None:
        self._parameters = {name: item for name, item in sorted(module.named_parameters()) if item.requires_grad}
        self._max_grad_norm, self._ema_decay = max_grad_norm, ema_decay
        self._averages = {name: item.detach().clone() for name, item in self._parameters.items()} if ema_decay else {}
        self._rule = RULES[rule](self._parameters, weight_decay)

    def forget_gradients(self) -> None:
        for item in self._parameters.values():
            item.grad = None

    def gradients(self) -> Tensor:
        """All of them in one vector, zeros where there is none."""
        parts = [torch.zeros_like(item) if item.grad is None else item.grad for item in self._parameters.values()]
        return torch.cat([part.flatten() for part in parts])

    def set_gradients(self, gradients: Tensor) -> float:
        """The inverse of `gradients`, scaled down if they are too large; returns their norm before that."""
        norm = float(gradients.norm())
        if norm > self._max_grad_norm:
            gradients = gradients * (self._max_grad_norm / norm)
        sizes = [item.numel() for item in self._parameters.values()]
        for item, part in zip(self._parameters.values(), gradients.split(sizes), strict=True):
            item.grad = part.view_as(item)
        return norm

    @torch.no_grad()
    def step(self, rate: float, num_before: int) -> None:
        """One step with this learning rate, after num_before others."""
        self._rule.step(rate, num_before)
        decay = min(self._ema_decay, (1 + num_before) / (10 + num_before))  # so that the first weights fade soon
        for name, average in self._averages.items():
            average.lerp_(self._parameters[name], 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """While it lasts the module has the averaged weights."""
        kept = {name: self._parameters[name].detach().clone() for name in self._averages}
        self.take_averages()
        try:
            yield
        finally:
            _copy(kept, self._parameters)

    def take_averages(self) -> None:
        """The module has the averaged weights from now on."""
        _copy(self._averages, self._parameters)

    def tensors(self) -> dict[str, Tensor]:
        """What has to be remembered, by name; not copies."""
        found = {f"weight.{name}": item.detach() for name, item in self._parameters.items()}
        found |= {f"average.{name}": item for name, item in self._averages.items()}
        return found | self._rule.tensors()

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Goes back to what `tensors` gave."""
        _copy(tensors, self.tensors())


@torch.no_grad()
def _copy(source: Mapping[str, Tensor], into: Mapping[str, Tensor]) -> None:
    for name, item in source.items():
        into[name].copy_(item)
