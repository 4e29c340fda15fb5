"""Muon (Jordan et al. 2024): momentum of which only the directions count; all singular values are brought to about 1.

torch has one, in bfloat16. Where a processor has no bfloat16 of its own that is several times slower than this one.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from paceline.trainer.training.adamw import AdamW

MOMENTUM = 0.95
OTHERS_SHARE = 0.05  # of the learning rate, for what AdamW sees to
TABLES = ("embed_tokens", "lm_head")  # matrices whose rows are tokens: most gradients of theirs are zeros
NUM_ITERATIONS = 5
COEFFICIENTS = 3.4445, -4.7750, 2.0315  # of a quintic whose iterations bring (0, 1] to about 0.7 … 1.2 soonest
TINY = 1e-7


class Muon:
    """Muon for matrices inside a model, AdamW for vectors and for tables of tokens.

    When to use it: a small model, batches of a thousand tokens or more, learning rates about 0.02. A step costs some 60
    multiplications by each matrix's shorter side, so small batches spend their time here; it takes a fraction of
    AdamW's steps.

    Args:
        parameters: that require gradients.
        weight_decay: of matrices; vectors (norms) have none.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], weight_decay: float) -> None:
        self._matrices = {name: item for name, item in parameters.items() if _is_inner(name, item)}
        self._momenta = {name: torch.zeros_like(item) for name, item in self._matrices.items()}
        self._weight_decay = weight_decay
        others = {name: item for name, item in parameters.items() if name not in self._matrices}
        self._others = AdamW(others, weight_decay) if others else None

    @torch.no_grad()
    def step(self, rate: float, num_before: int) -> None:
        for name, item in self._matrices.items():
            assert item.grad is not None, name
            momentum = self._momenta[name].mul_(MOMENTUM).add_(item.grad)
            ahead = item.grad.add(momentum, alpha=MOMENTUM)  # Nesterov's
            # A matrix with more outputs than inputs may change by more: what goes in has the size of ones.
            size = max(1.0, item.shape[0] / item.shape[1]) ** 0.5
            item.mul_(1 - rate * self._weight_decay).add_(orthogonal(ahead), alpha=-rate * size)
        if self._others is not None:
            self._others.step(rate * OTHERS_SHARE, num_before)

    def tensors(self) -> dict[str, Tensor]:
        found = {f"momentum.{name}": item for name, item in self._momenta.items()}
        return found | (self._others.tensors() if self._others else {})


def orthogonal(matrix: Tensor) -> Tensor:
    """The matrix with its singular values, as far as they are more than noise, brought to 0.7 … 1.2.

    Newton-Schulz iterations X <- aX + b(XX')X + c(XX')^2 X. In float32 all of them are on XX', whose side is the
    shorter one; under autocast to bfloat16 on X itself, since squares of small singular values would be lost in XX'.
    """
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonal(matrix.T).T
    first, second, third = COEFFICIENTS
    start = matrix / (matrix.norm() + TINY)
    if torch.is_autocast_enabled(matrix.device.type):
        return _iterated(start.to(torch.get_autocast_dtype(matrix.device.type))).to(matrix.dtype)
    gram = start @ start.T
    product = torch.empty(0)
    for number in range(NUM_ITERATIONS):
        factor = torch.addmm(gram, gram, gram, beta=second, alpha=third)
        factor.diagonal().add_(first)
        product = factor @ product if number else factor
        if number < NUM_ITERATIONS - 1:
            gram = factor @ gram @ factor
    return product @ start


def _iterated(rows: Tensor) -> Tensor:
    first, second, third = COEFFICIENTS
    for _ in range(NUM_ITERATIONS):
        gram = rows @ rows.T
        rows = torch.addmm(rows, torch.addmm(gram, gram, gram, beta=second, alpha=third), rows, beta=first)
    return rows


def _is_inner(name: str, item: nn.Parameter) -> bool:
    return item.dim() == 2 and not any(part in TABLES for part in name.split("."))
