"""A task of the training loop that takes no time. As a program it learns it in a folder, slowly enough to be killed,
or in several processes.

python small_task.py FOLDER SECONDS_A_STEP
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from paceline.trainer.training.loop import LoopSettings, Loss, train

SETTINGS = LoopSettings(
    num_steps=30, learning_rate=1e-2, warmup_steps=5, ema_decay=0.9, checkpoint_every=5, log_every=1
)


def small_module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 1))


@dataclass
class SmallTask:
    """A regression on eight examples a step, of unequal weights.

    Attributes:
        broken: steps whose loss is multiplied by that number.
        pause_s: each step takes at least that long.
    """

    module: nn.Module
    broken: dict[int, float]
    pause_s: float = 0.0
    name: str = "small"

    def batch(self, step: int) -> Sequence[Tensor]:
        rows = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
        rows[:, 4] = rows[:, :4].sum(1).sin()
        rows[:, 5] = self.broken.get(step, 1.0)
        return list(rows)

    def loss(self, examples: Sequence[Tensor]) -> Loss:
        time.sleep(self.pause_s)
        rows = torch.stack(list(examples))
        weights = 1 + (rows[:, 0] > 0).float()
        errors = (self.module(rows[:, :4])[:, 0] - rows[:, 4]).square() * rows[:, 5]
        return Loss((weights * errors).sum(), float(weights.sum()))


def weights_of(module: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


if __name__ == "__main__":
    torch.set_num_threads(1)
    own = small_module()
    train(own, SmallTask(own, {}, float(sys.argv[2])), SETTINGS, Path(sys.argv[1]), accelerator=Accelerator(cpu=True))
