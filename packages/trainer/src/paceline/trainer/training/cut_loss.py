"""Cross-entropy over a cut vocabulary and what was borrowed, some rows at a time, its gradient found on the way.

A head's output matrix is the target's embedding and stays as it is, so all that is wanted of [n, vocab_size] logits is
one number and a gradient for their rows. Both are found while a few hundred rows' logits are in the cache of the
processor: plain operations went through memory some twenty times (as `learning.chunked` for matrices that learn).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 128  # rows: 4 MiB of float32 for 8,192 tokens
NEVER = -1e4


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """Of the head or of its teacher, for n rows.

    Attributes:
        rows: [n, width], normed.
        weight: [vocab_size, width] of the common tokens.
        borrowed: logits [n, K] of those that were borrowed, -inf where they can't be proposed.
    """

    rows: Tensor
    weight: Tensor
    borrowed: Tensor


def cut_loss(head: Side, teacher: Side, next_ids: Tensor, greedy_share: float) -> Tensor:
    """Sum over n rows of the cross-entropy between goals and the head's distribution.

    A goal is greedy_share for the next token and the rest for the teacher's distribution, both over what can be
    proposed. Gradients go to `head.rows` and `head.borrowed`; once.

    Args:
        next_ids: [n], below vocab_size, or vocab_size + 1 + k for the k-th borrowed one.
    """
    loss: Tensor = _CutLoss.apply(head.rows, head.borrowed, head.weight, teacher, next_ids, greedy_share)
    return loss


class _CutLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, borrowed: Tensor, weight: Tensor, teacher: Side, next_ids: Tensor, share: float
    ) -> Tensor:
        dtype = _product_dtype(rows)
        weight, taught = weight.to(dtype), teacher.weight.to(dtype)
        size = len(weight)
        grad_rows, grad_borrowed = torch.empty_like(rows), torch.empty_like(borrowed, dtype=torch.float32)
        total = torch.zeros((), dtype=torch.float32, device=rows.device)
        for start in range(0, len(rows), CHUNK):
            part = slice(start, start + CHUNK)
            goal = _beside(teacher.rows[part].to(dtype) @ taught.T, teacher.borrowed[part]).softmax(-1).mul_(1 - share)
            ids = next_ids[part]
            place = torch.where(ids < size, ids, ids - 1)[:, None]  # nothing stands for other tokens here
            goal.scatter_add_(1, place, torch.full_like(goal[:, :1], share))
            logits = _beside(rows[part].to(dtype) @ weight.T, borrowed[part])
            found = logits.softmax(-1)
            best, at = logits.max(-1, keepdim=True)
            total += (best - found.gather(1, at).log()).sum() - torch.linalg.vecdot(goal, logits).sum()
            difference = found.sub_(goal)
            grad_rows[part] = difference[:, :size].to(dtype) @ weight
            grad_borrowed[part] = difference[:, size:]
        ctx.save_for_backward(grad_rows, grad_borrowed)
        ctx.borrowed_dtype = borrowed.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_rows, grad_borrowed = ctx.saved_tensors
        return grad_rows * grad, (grad_borrowed * grad).to(ctx.borrowed_dtype), None, None, None, None


def _beside(common: Tensor, borrowed: Tensor) -> Tensor:
    """Logits in float32; what can't be proposed is so unlikely that it has no weight, and isn't infinite."""
    return torch.cat((common.float(), borrowed.float().clamp(min=NEVER)), dim=-1)


def _product_dtype(rows: Tensor) -> torch.dtype:
    """What autocast would take. It would convert the matrices again for each chunk: only what learns is remembered."""
    kind = rows.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
