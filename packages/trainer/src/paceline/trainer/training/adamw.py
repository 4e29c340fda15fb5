"""AdamW (Loshchilov & Hutter 2019), torch's own, with moments that can be saved by name."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

_BETAS = (0.9, 0.95)  # as is usual for transformers; the second forgets in some 20 steps what a spike left


class AdamW:
    """When to use it: for anything, with learning rates about 1e-3; a step costs next to nothing.

    Args:
        parameters: that require gradients.
        weight_decay: of matrices; vectors (norms) have none.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], weight_decay: float) -> None:
        self._parameters = dict(parameters)
        matrices = [item for item in self._parameters.values() if item.dim() > 1]
        vectors = [item for item in self._parameters.values() if item.dim() <= 1]
        groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self._adamw = torch.optim.AdamW([group for group in groups if group["params"]], betas=_BETAS)
        for item in self._parameters.values():
            moments = {"exp_avg": torch.zeros_like(item), "exp_avg_sq": torch.zeros_like(item)}
            self._adamw.state[item] = {"step": torch.zeros(()), **moments}

    def step(self, rate: float, num_before: int) -> None:
        for group in self._adamw.param_groups:
            group["lr"] = rate
        for item in self._parameters.values():
            self._adamw.state[item]["step"].fill_(num_before)
        self._adamw.step()

    def tensors(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, item in self._parameters.items():
            state = self._adamw.state[item]
            found |= {f"mean.{name}": state["exp_avg"], f"square.{name}": state["exp_avg_sq"]}
        return found
