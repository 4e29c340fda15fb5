"""How weights follow gradients; a new rule is a class in a file of its own, and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor, nn

from paceline.trainer.training.adamw import AdamW
from paceline.trainer.training.muon import Muon


class Rule(Protocol):
    """One rule over some parameters, by name; what it remembers of them is in `tensors` alone."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], weight_decay: float) -> None: ...

    def step(self, rate: float, num_before: int) -> None:
        """Changes the parameters by their gradients, with this learning rate, after num_before other steps."""

    def tensors(self) -> dict[str, Tensor]:
        """What has to be remembered, by names of which none begins with weight or average; not copies."""


RULES: dict[str, type[Rule]] = {"adamw": AdamW, "muon": Muon}
