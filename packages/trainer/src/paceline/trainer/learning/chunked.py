"""Losses from hidden states, without ever having [n, vocab_size].

With a vocabulary of 49,152 the logits of 4,096 positions are 768 MiB, and a loss and its gradient want several such.
Cut Cross-Entropy (arXiv:2411.09009) made the point that none is needed: here some positions at a time get their
logits, their loss, and in the backward pass their logits once more and the gradient; then they are forgotten. Values
and gradients are those of the plain formula to rounding, for any objective, since a position's loss depends on no
other position.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from paceline.trainer.learning.objectives.base import Objective
from paceline.trainer.learning.objectives.lumped import lump
from paceline.trainer.learning.targets import Targets, malformed
from paceline.wire.errors import out_of_range

CHUNK = 128  # positions; with 49,152 tokens 24 MiB of logits


def chunked_loss(hidden: Tensor, head: Tensor, targets: Targets, objective: Objective, chunk: int = CHUNK) -> Tensor:
    """objective(log_softmax(hidden @ head.T / temperature), targets) [n].

    Use it wherever a loss is taken over a vocabulary of more than some thousands. Gradients go to `hidden` and
    `head`; once, not twice.

    Args:
        hidden: [n, d], what the head is applied to.
        head: [vocab_size, d].
        chunk: positions at a time; a smaller number needs less memory.
    """
    _check(hidden, head, targets, chunk)
    loss: Tensor = _ChunkedLoss.apply(hidden, head, targets, objective, chunk)
    return loss


def plain_loss(hidden: Tensor, head: Tensor, targets: Targets, objective: Objective) -> Tensor:
    """The same by the plain formula: what `chunked_loss` is held against, and quicker for few positions."""
    _check(hidden, head, targets, 1)
    return objective(_log_probs(hidden @ head.T, targets), targets)


@dataclass(frozen=True, eq=False)
class Readings:
    """What a student's own distribution says of positions, for choosing among them.

    Attributes:
        entropy: [n] of the student, in nats.
        divergence: [n], total variation distance to the target over its best k and the lumped rest: 1 - the probability
            of acceptance by rejection sampling.
        best: int64 [n], the student's likeliest token.
    """

    entropy: Tensor
    divergence: Tensor
    best: Tensor


@torch.no_grad()
def read(hidden: Tensor, head: Tensor, targets: Targets, chunk: int = CHUNK) -> Readings:
    """Entropy, divergence and choice of the student at n positions. Arguments as of `chunked_loss`."""
    _check(hidden, head, targets, chunk)
    entropy, divergence, best = [], [], []
    for start, stop in _chunks(len(hidden), chunk):
        part = targets.rows(start, stop)
        log_probs = _log_probs(hidden[start:stop] @ head.T, part)
        both = lump(log_probs, part)
        entropy.append(-(log_probs.exp() * log_probs).nan_to_num(nan=0.0).sum(dim=-1))
        divergence.append((both.p - both.q).abs().sum(dim=-1) / 2)
        best.append(log_probs.argmax(dim=-1))
    if not best:
        return Readings(hidden.new_zeros(0), hidden.new_zeros(0), torch.zeros(0, dtype=torch.int64))
    return Readings(torch.cat(entropy), torch.cat(divergence), torch.cat(best))


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Targets, objective: Objective, chunk: int) -> Tensor:
        ctx.save_for_backward(hidden, head)
        ctx.targets, ctx.objective, ctx.chunk = targets, objective, chunk
        loss = hidden.new_zeros(len(hidden))
        for start, stop in _chunks(len(hidden), chunk):
            part = targets.rows(start, stop)
            loss[start:stop] = objective(_log_probs(hidden[start:stop] @ head.T, part), part)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        hidden, head = ctx.saved_tensors
        grad_hidden = torch.zeros_like(hidden) if ctx.needs_input_grad[0] else None
        grad_head = torch.zeros_like(head) if ctx.needs_input_grad[1] else None
        for start, stop in _chunks(len(hidden), ctx.chunk):
            part = ctx.targets.rows(start, stop)
            with torch.enable_grad():
                logits = (hidden[start:stop] @ head.T).detach().requires_grad_()
                loss = ctx.objective(_log_probs(logits, part), part)
            (grad_logits,) = torch.autograd.grad(loss, logits, grad[start:stop])
            if grad_hidden is not None:
                grad_hidden[start:stop] = grad_logits @ head
            if grad_head is not None:
                grad_head.addmm_(grad_logits.T, hidden[start:stop])
        return grad_hidden, grad_head, None, None, None


def _log_probs(logits: Tensor, targets: Targets) -> Tensor:
    return (logits / targets.temperature if targets.temperature != 1.0 else logits).log_softmax(dim=-1)


def _chunks(num_positions: int, chunk: int) -> Iterator[tuple[int, int]]:
    for start in range(0, num_positions, chunk):
        yield start, min(start + chunk, num_positions)


def _check(hidden: Tensor, head: Tensor, targets: Targets, chunk: int) -> None:
    if chunk < 1:
        raise out_of_range("chunk", chunk, "at least 1")
    if hidden.dim() != 2 or len(hidden) != len(targets):
        raise malformed("hidden", f"shape {list(hidden.shape)}", f"[{len(targets)}, d]")
    if tuple(head.shape) != (targets.vocab_size, hidden.shape[1]):
        raise malformed("head", f"shape {list(head.shape)}", f"[{targets.vocab_size}, {hidden.shape[1]}]")
