"""Attention of transformers' models in our hands: what a row sees, and where keys and values are kept.

transformers calls one function for the attention of all its decoders. This registers one that hands each call to
whoever has the model run (`attending`), so masks, windows and the cache are the same for every architecture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional
from transformers import AttentionInterface

from paceline.drafter.models.base import Rows
from paceline.drafter.models.checks import first_moved

ATTENTION = "paceline_drafter"
MIN_CAPACITY = 64  # rows


@dataclass(frozen=True, slots=True)
class Call:
    """One layer's attention. query [1, heads, rows, dim], key and value [1, kv_heads, rows, dim] (dims may differ)."""

    layer: int
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    scale: float
    softcap: float | None
    window: int | None


class Attention(Protocol):
    def attend(self, call: Call) -> torch.Tensor:
        """[1, rows, heads, dim]."""


_running: ContextVar[Attention] = ContextVar("running")


@contextmanager
def attending(attention: Attention) -> Iterator[None]:
    """Models whose attention is ATTENTION call this one within the block."""
    token = _running.set(attention)
    try:
        yield
    finally:
        _running.reset(token)


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_ignored: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls. What it ignores but shouldn't have is found by `torch_lm.probe`."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    call = Call(int(module.layer_idx), query, key, value, scale, softcap, sliding_window)  # type: ignore[arg-type]
    return _running.get().attend(call), None


AttentionInterface.register(ATTENTION, _attend)


class TorchCache:
    """Keys and values of one session's rows, with room to grow. See `base.KVCache`.

    Only the model knows the shapes, so each layer's room is made when that layer first comes by.
    """

    def __init__(self) -> None:
        self._length = 0
        self._positions = np.empty(0, np.int64)
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # each [kv_heads, capacity, dim]

    def __len__(self) -> int:
        return self._length

    @property
    def positions(self) -> npt.NDArray[np.int64]:
        """Of each row [len]."""
        return self._positions

    @property
    def shapes(self) -> dict[int, tuple[int, int, int]]:
        """Of each layer that has come by: heads, and dimensions of a key and of a value."""
        return {
            layer: (keys.shape[0], keys.shape[2], values.shape[2]) for layer, (keys, values) in self._layers.items()
        }

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        start, count = first_moved(rows, self._length), len(rows)
        if start < count:
            for layer in self._layers.values():
                sources = torch.tensor(rows[start:], device=layer[0].device)
                for part in layer:
                    part[:, start:count] = part.index_select(1, sources)
        self._positions = self._positions[np.asarray(rows, np.int64)]
        self._length = count

    def put(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Lays a layer's keys and values [kv_heads, n, dim] behind those that are there; returns all. They count once
        `extend` was called: a forward pass that fails leaves the cache as it was."""
        end = self._length + key.shape[1]
        if layer not in self._layers or self._layers[layer][0].shape[1] < end:
            self._grow(layer, key, value, max(MIN_CAPACITY, end + end // 2))
        keys, values = self._layers[layer]
        keys[:, self._length : end] = key
        values[:, self._length : end] = value
        return keys[:, :end], values[:, :end]

    def extend(self, positions: npt.NDArray[np.int64]) -> None:
        """The rows that every layer has `put` are rows of the cache from now on."""
        self._positions = np.concatenate((self._positions, positions))
        self._length += len(positions)

    def _grow(self, layer: int, key: torch.Tensor, value: torch.Tensor, capacity: int) -> None:
        """One layer at a time, so that never more than one is held twice."""
        grown = tuple(part.new_empty(part.shape[0], capacity, part.shape[2]) for part in (key, value))
        for new, old in zip(grown, self._layers.get(layer, ()), strict=False):
            new[:, : self._length] = old[:, : self._length]
        self._layers[layer] = (grown[0], grown[1])


class CachedAttention:
    """One forward pass over the rows of several sessions, one after the other in one sequence.

    Each session attends over its own cache, in place: nothing of the past is copied or padded, and linear layers see
    no padding either.

    Args:
        caches: one for each of the batch.
        batch: in the order of its rows in the sequence.
    """

    def __init__(self, caches: Sequence[TorchCache], batch: Sequence[Rows]) -> None:
        self._caches = caches
        self._batch = batch
        self._masks: dict[tuple[int, int | None, int], torch.Tensor] = {}

    def attend(self, call: Call) -> torch.Tensor:
        outputs: list[torch.Tensor] = []
        start = 0
        for index, rows in enumerate(self._batch):
            end = start + len(rows.tokens)
            keys, values = self._caches[index].put(call.layer, call.key[0, :, start:end], call.value[0, :, start:end])
            outputs.append(self._attend_alone(index, call, call.query[0, :, start:end], keys, values))
            start = end
        return torch.cat(outputs)[None]

    def _attend_alone(
        self, index: int, call: Call, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """query [heads, n, dim] -> [n, heads, dim]. Heads that share keys are rows of one product: no key is copied."""
        heads, count, _ = query.shape
        shared = heads // keys.shape[0]
        mask = self._mask(index, call.window, shared, query)
        stacked = query.reshape(keys.shape[0], shared * count, -1)
        if call.softcap is None:
            attended = functional.scaled_dot_product_attention(
                stacked[None], keys[None], values[None], attn_mask=mask, scale=call.scale
            )[0]
        else:
            scores = call.softcap * torch.tanh(stacked @ keys.transpose(1, 2) * (call.scale / call.softcap))
            attended = torch.softmax((scores + mask).float(), dim=-1).to(values.dtype) @ values
        return attended.reshape(heads, count, -1).transpose(0, 1)

    def _mask(self, index: int, window: int | None, shared: int, query: torch.Tensor) -> torch.Tensor:
        """What is added to the scores, 0 or -inf: [shared * n, total]. The same for all layers of a kind."""
        found = self._masks.get((index, window, shared))
        if found is None:
            rows = self._batch[index]
            visible = rows.visible
            if window is not None:
                positions = np.concatenate((self._caches[index].positions, rows.positions))
                visible = visible & (rows.positions[:, None] - positions[None, :] < window)
            tiled = torch.from_numpy(np.tile(visible, (shared, 1))).to(query.device)
            found = query.new_zeros(tiled.shape).masked_fill_(~tiled, float("-inf"))
            self._masks[index, window, shared] = found
        return found
