"""The loop that fits a module: warm-up and cosine, clipping, averaged weights, and a way back from trouble.

A step's batch is a function of the step's number alone, and its examples are divided among processes whose gradients
are added. So a run that is killed and started again takes the same steps, and one in several processes does too, to the
rounding of sums that are split.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from paceline.trainer.training.optimizer import Optimizer
from paceline.trainer.training.precision import products_in
from paceline.trainer.training.showing import step_bar
from paceline.trainer.training.state import Progress, clean, load_state, save_state
from paceline.trainer.training.step_log import StepLog
from paceline.wire.errors import PacelineError, Reason

Example = TypeVar("Example")
Watch = Callable[[int], Mapping[str, float]]

MEAN_OVER = 50  # steps, of the running mean of the loss
SETTLED = 20  # steps before which a loss is not compared with those before it
FAR_ABOVE = 3.0  # times the mean: no batch is that much harder than others
LOW = 1.0  # nats, a loss that has not diverged whatever the mean is: near 0 a hard batch may be many times that
MAX_ROLLBACKS = 4

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    """How a module is fitted.

    Attributes:
        num_steps: in all, those of earlier runs in the folder included.
        rule: adamw or muon, see `rules`; each has learning rates of its own.
        learning_rate: the greatest; it rises from 0 in warmup_steps and falls by a cosine to final_share of it.
        weight_decay: of matrices; norms have none.
        max_grad_norm: gradients are scaled down to it.
        ema_decay: of the averaged weights that the run ends with; 0 takes the last ones.
        checkpoint_every: steps between states.
        log_every: steps between lines of the log.
        precision: of the products, bfloat16 or float32; weights, gradients and sums over rows are float32 either way.
            "auto" takes bfloat16 where the processor multiplies it itself: there it takes a fraction of the time.
    """

    num_steps: int
    learning_rate: float
    rule: str = "adamw"
    warmup_steps: int = 100
    final_share: float = 0.05
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    ema_decay: float = 0.0
    checkpoint_every: int = 200
    log_every: int = 10
    precision: str = "float32"

    def rate(self, step: int) -> float:
        """The learning rate of a step; steps count from 0."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(self.num_steps - self.warmup_steps, 1)
        share = (1 + math.cos(math.pi * min(done, 1.0))) / 2
        return self.learning_rate * (self.final_share + (1 - self.final_share) * share)


@dataclass(frozen=True, slots=True)
class Loss:
    """A sum over examples, never negative, to differentiate; and the weight that it is to be divided by."""

    total: Tensor
    weight: float


class Task(Protocol[Example]):
    """What is to be learnt. `name` tells it from other tasks: a folder goes on with the same one only."""

    name: str

    def batch(self, step: int) -> Sequence[Example]:
        """The examples of a step: the same whenever, and in whichever process, it is asked. Whatever is random in
        them follows from the step."""

    def loss(self, examples: Sequence[Example]) -> Loss:
        """Of some of a step's examples, at least one; losses and weights of its parts add up to those of the batch."""


@dataclass(frozen=True, slots=True)
class Trained:
    """How it ended: steps taken, the running mean of the loss, and how often the loss diverged."""

    num_steps: int
    mean_loss: float
    rollbacks: int


def train(
    module: nn.Module,
    task: Task[Example],
    settings: LoopSettings,
    folder: Path,
    *,
    accelerator: Accelerator | None = None,
    watch: Watch | None = None,
) -> Trained:
    """Fits a module's parameters in place, from the newest state in the folder if there is one.

    Use it for whatever is fitted to more batches than one cares to repeat. Under `accelerate launch` or `torchrun` each
    process calls it with the same arguments, on a folder that all can read; the first writes.

    Args:
        module: its trainable parameters are on the accelerator's device. It has the averaged weights at the end, and
            while watched.
        folder: of states and the log, this run's alone.
        watch: called at each state with the number of steps, in the first process; what it returns is logged.

    Raises:
        PacelineError: INTERNAL, the loss keeps diverging.
        StartupError: the folder is another run's, or damaged.
    """
    loop = _Loop(module, task, settings, folder, accelerator or Accelerator(), watch)
    loop.run()
    return Trained(loop.progress.step, loop.progress.mean_loss, loop.progress.rollbacks)


class _Loop(Generic[Example]):
    def __init__(
        self,
        module: nn.Module,
        task: Task[Example],
        settings: LoopSettings,
        folder: Path,
        accelerator: Accelerator,
        watch: Watch | None,
    ) -> None:
        self._task, self._settings, self._folder = task, settings, folder
        self._accelerator, self._watch = accelerator, watch
        self._optimizer = Optimizer(
            module, settings.rule, settings.weight_decay, settings.max_grad_norm, settings.ema_decay
        )
        self._log = StepLog(folder if accelerator.is_main_process else None)
        self.progress = Progress(task=task.name)

    def run(self) -> None:
        settings = self._settings
        if self._accelerator.is_main_process:
            clean(self._folder)
        if not self._restored():
            self._save()  # so there is always a state to go back to
        self._log.cut(self.progress.step)
        with step_bar(settings.num_steps, shown=self._accelerator.is_main_process) as show:
            while self.progress.step < settings.num_steps:
                if not self._step():
                    self._roll_back()
                elif self.progress.step % settings.checkpoint_every == 0 or self.progress.step == settings.num_steps:
                    self._save()
                    self._look()
                show(self.progress.step, self.progress.mean_loss)
        self._optimizer.take_averages()

    def _step(self) -> bool:
        """Takes a step; False, and nothing has changed, if its loss or gradient is beyond all bounds."""
        progress, settings, optimizer = self.progress, self._settings, self._optimizer
        gradients, loss = self._gradients(self._task.batch(progress.step))
        norm = optimizer.set_gradients(gradients)
        if not math.isfinite(loss) or not math.isfinite(norm) or self._is_far_above(loss):
            return False
        rate = settings.rate(progress.step) * progress.rate_scale
        with products_in(settings.precision, self._accelerator.device):
            optimizer.step(rate, progress.step)
        newest = 1 / min(progress.step + 1, MEAN_OVER)
        mean = progress.mean_loss + newest * (loss - progress.mean_loss)
        self.progress = replace(progress, step=progress.step + 1, mean_loss=mean)
        if self.progress.step % settings.log_every == 0:
            self._log.add(self.progress.step, loss=loss, mean_loss=mean, gradient_norm=norm, rate=rate)
        return True

    def _gradients(self, examples: Sequence[Example]) -> tuple[Tensor, float]:
        """The batch's gradient and loss; this process sees to its share."""
        accelerator = self._accelerator
        share = examples[accelerator.process_index :: accelerator.num_processes]
        self._optimizer.forget_gradients()
        sums = torch.zeros(2, device=accelerator.device)
        if share:
            with products_in(self._settings.precision, accelerator.device):
                loss = self._task.loss(share)
            loss.total.backward()  # type: ignore[no-untyped-call]
            sums = torch.stack((loss.total.detach(), sums.new_tensor(loss.weight)))
        gradients = self._optimizer.gradients()
        if accelerator.num_processes > 1:
            gradients = accelerator.reduce(gradients, reduction="sum")
            sums = accelerator.reduce(sums, reduction="sum")
        total, weight = sums.tolist()
        if not weight:
            raise ValueError(f"the examples of step {self.progress.step} have no weight")
        return gradients / weight, total / weight

    def _is_far_above(self, loss: float) -> bool:
        return self.progress.step >= SETTLED and loss > max(FAR_ABOVE * self.progress.mean_loss, LOW)

    def _roll_back(self) -> None:
        """Back to the newest state, to go on with half the learning rate."""
        rollbacks, scale = self.progress.rollbacks + 1, self.progress.rate_scale / 2
        if rollbacks > MAX_ROLLBACKS:
            raise PacelineError(
                Reason.INTERNAL,
                f"the loss diverged at step {self.progress.step}, for the {rollbacks}th time, although the learning "
                f"rate was halved each time; choose one far below {self._settings.learning_rate}",
            )
        at = self.progress.step
        self._restored()
        self.progress = replace(self.progress, rollbacks=rollbacks, rate_scale=scale)
        self._log.cut(self.progress.step)
        self._log.add(self.progress.step, diverged_at=at, rate_scale=scale)
        _logger.warning(
            "the loss diverged at step %d; going on from step %d with %g of the learning rate",
            at,
            self.progress.step,
            scale,
        )

    def _restored(self) -> bool:
        """Takes over the newest state, if there is one."""
        self._accelerator.wait_for_everyone()
        shapes = {name: item.shape for name, item in self._optimizer.tensors().items()}
        state = load_state(self._folder, self._task.name, shapes)
        if state is None:
            return False
        self.progress, tensors = state
        self._optimizer.load(tensors)
        return True

    def _save(self) -> None:
        if self._accelerator.is_main_process:
            save_state(self._folder, self.progress, self._optimizer.tensors())
        self._accelerator.wait_for_everyone()

    def _look(self) -> None:
        if self._watch is not None and self._accelerator.is_main_process:
            precise = products_in(self._settings.precision, self._accelerator.device)
            with self._optimizer.averaged(), precise:
                self._log.add(self.progress.step, **self._watch(self.progress.step))
        self._accelerator.wait_for_everyone()
