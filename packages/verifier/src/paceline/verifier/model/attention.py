"""Tree attention over the sessions of a step, in an order of summation that the step's shape can't change.

A row's output must have the same bits whether it is computed alone, in a stretch of prompt, or among candidates whose
ancestors lie scattered over the tree. So every sum here runs over the row's own context in logical order:

- Scores are products of fixed length (the head's dimension).
- Weights are exp(score - max), exactly 0 for rows that are not ancestors. Adding 0 x value changes no bit, so rows
  between ancestors don't matter as long as the product sums over rows one after the other. oneMKL's float32 product
  does for enough rows (`_min_rows`) and inner sizes up to 384; the probe in `exactness` checks it on the machine.
- Sums over the context are cut at multiples of BLOCK by *absolute position*, one product a block, and the blocks are
  added one after the other. A candidate just behind a cut belongs to the next block even if it is verified in the same
  step, as it would if it were decoded alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from paceline.verifier.model.batch import ROOT, SessionPlan
from paceline.verifier.model.blocks import BLOCK_TOKENS
from paceline.verifier.model.kv import ONES, KVStore, slot_of

BLOCK = 256
MAX_INNER = 384
MAX_SESSION_ROWS = MAX_INNER - BLOCK  # rows of one session in one step
MIN_PRODUCT_ROWS = 4
MIN_PRODUCT_COLUMNS = 16
SMALL_PRODUCT = 400  # multiplications below which torch takes a kernel of its own, with another rounding


@dataclass(frozen=True, slots=True)
class Layout:
    """Where one session's rows are in the step's [1, rows, hidden] batch, and whom each row may look at.

    Attributes:
        length: committed tokens of the session.
        blocks: its blocks, as far as the step's rows reach.
        slots: [n] where each row's keys and values go in the store.
        start, end: its rows in the batch.
        positions: absolute position of each row.
        blocked: [n, n] float, -inf where row i may not look at row j, else 0.
    """

    length: int
    blocks: torch.Tensor
    slots: torch.Tensor
    start: int
    end: int
    positions: torch.Tensor
    blocked: torch.Tensor


def make_layout(plan: SessionPlan, start: int, device: torch.device) -> Layout:
    """The layout of a session whose rows begin at `start`."""
    num_chain = len(plan.chain)
    parents = [index - 1 for index in range(num_chain)]
    parents += [num_chain - 1 if parent == ROOT else num_chain + parent for parent in plan.tree_parents]
    depth = np.zeros(len(parents), dtype=np.int64)
    visible = np.eye(len(parents), dtype=bool)
    for row, parent in enumerate(parents):
        if parent >= 0:
            depth[row] = depth[parent] + 1
            visible[row] |= visible[parent]
    blocked = torch.from_numpy(np.where(visible, np.float32(0.0), np.float32(-np.inf)))
    slot, count = plan.slot, len(parents)
    return Layout(
        length=slot.length,
        blocks=torch.tensor(slot.blocks[: (slot.length + count - 1) // BLOCK_TOKENS + 1], device=device),
        slots=torch.tensor([slot_of(slot.blocks, slot.length + row) for row in range(count)], device=device),
        start=start,
        end=start + count,
        positions=torch.from_numpy(depth + slot.length).to(device),
        blocked=blocked.to(device),
    )


def attend(
    store: KVStore,
    layout: Layout,
    layer: int,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
    sliding_window: int | None = None,
    softcap: float | None = None,
) -> torch.Tensor:
    """Attention of one session's rows over its cache and its own rows.

    query: [heads, n, dim], key and value: [kv_heads, n, dim]. Returns [n, heads, value_dim].
    """
    heads, num_rows, _ = query.shape
    kv_heads = key.shape[0]
    stored_keys, stored_values = store.write(layer, layout.slots, key, value)
    keys, values = (
        torch.index_select(stored, 1, layout.blocks).flatten(1, 2) for stored in (stored_keys, stored_values)
    )
    length = layout.length
    total = length + num_rows
    # Query heads that share a key head become rows of one product.
    grouped = (query * scaling).to(keys.dtype).reshape(kv_heads, -1, query.shape[-1])
    padding = _min_rows(key.shape[-1], values.shape[-1]) - grouped.shape[1]
    if padding > 0:
        grouped = torch.cat([grouped, grouped[:, -1:].expand(-1, padding, -1)], dim=1)
    # A single key would take a matrix-vector kernel; the columns beyond `total` are dropped at once.
    scores = torch.matmul(grouped, keys[:, : max(total, MIN_PRODUCT_COLUMNS)].transpose(1, 2))
    scores = scores[:, : heads // kv_heads * num_rows, :total]
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    by_row = scores.unflatten(1, (-1, num_rows))
    by_row[..., length:] += layout.blocked
    if sliding_window is not None:
        by_row += _outside_window(layout, sliding_window)
    weights = torch.exp_(scores - scores.amax(dim=-1, keepdim=True))
    if padding > 0:
        weights = torch.cat([weights, weights[:, -1:].expand(-1, padding, -1)], dim=1)
    summed = _weighted_sum(weights, values[:, :total], layout)
    if padding > 0:
        summed = summed[:, :-padding]
    output = summed[..., :-ONES] / summed[..., -1:]
    return output.view(heads, num_rows, -1).transpose(0, 1).to(query.dtype)


def _min_rows(key_dim: int, value_width: int) -> int:
    """Rows from which on more of them change no bit (measured).

    Scores: an inner size of 24 or more times the rows is summed by another kernel. Weighted values: an inner size of 1
    rounds the same everywhere, but from 2 up the product must be large enough for torch to leave it to oneMKL.
    """
    return max(MIN_PRODUCT_ROWS, math.ceil(key_dim / 16), math.ceil(SMALL_PRODUCT / (2 * value_width)))


def _weighted_sum(weights: torch.Tensor, values: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Σ weight x value in block order. weights: [kv_heads, m, total], values: [kv_heads, total, dim]."""
    length = layout.length
    num_full = length // BLOCK
    summed: torch.Tensor | None = None
    for block in range(num_full):
        part = slice(block * BLOCK, (block + 1) * BLOCK)
        product = torch.matmul(weights[..., part], values[:, part])
        summed = product if summed is None else summed.add_(product)
    cut = num_full * BLOCK
    tail_weights, tail_values = weights[..., cut:], values[:, cut:]
    next_cut = cut + BLOCK
    behind = layout.positions >= next_cut
    if length + layout.end - layout.start > next_cut and bool(behind.any()):
        outside = torch.zeros(tail_weights.shape[-1], dtype=tail_weights.dtype, device=tail_weights.device)
        outside[length - cut :] = behind.to(outside.dtype)
        parts = [tail_weights * (1.0 - outside), tail_weights * outside]
    else:
        parts = [tail_weights]
    for part_weights in parts:
        product = torch.matmul(part_weights, tail_values)
        summed = product if summed is None else summed.add_(product)
    assert summed is not None
    return summed


def _outside_window(layout: Layout, window: int) -> torch.Tensor:
    """[n, total] float: -inf for keys `window` or more positions back."""
    length = layout.length
    positions = torch.cat([torch.arange(length, device=layout.positions.device), layout.positions])
    too_far = layout.positions[:, None] - positions[None, :] >= window
    return torch.zeros(too_far.shape, device=too_far.device).masked_fill_(too_far, float("-inf"))
