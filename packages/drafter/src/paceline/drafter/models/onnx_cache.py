"""Rows that a graph has run, and how those of several sessions go in side by side."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from paceline.drafter.models.base import Rows
from paceline.drafter.models.checks import first_moved
from paceline.wire.model_card import LanguageModelCard

MIN_CAPACITY = 64  # rows

Past = npt.NDArray[np.float32]
Feed = dict[str, npt.NDArray[Any]]
_Inputs = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_], Sequence[int]]


class OnnxCache:
    """Keys and values of one session's rows, with room to grow. See `base.KVCache`."""

    def __init__(self, card: LanguageModelCard) -> None:
        self._length = 0
        # [layers, capacity, kv_heads, dim]; a subclass may add others of [.., capacity, ..]
        self._parts = [
            np.empty((card.num_layers, 0, card.num_kv_heads, dim), np.float32) for dim in (card.key_dim, card.value_dim)
        ]

    def __len__(self) -> int:
        return self._length

    def keep(self, rows: Sequence[int]) -> None:
        start, count = first_moved(rows, self._length), len(rows)
        if start < count:
            for part in self._parts:
                part[:, start:count] = part[:, np.asarray(rows[start:])]
        self._length = count

    def past(self, layer: int) -> tuple[Past, Past]:
        """A layer's keys and values [len, kv_heads, dim]; not copied."""
        keys, values = (part[layer, : self._length] for part in self._parts[:2])
        return keys, values

    def extend(self, new: Sequence[Past]) -> None:
        """Adds rows: keys and values [n, kv_heads, dim] of the first layer, then of the next."""
        end = self._length + len(new[0])
        if self._parts[0].shape[1] < end:
            self._grow(max(MIN_CAPACITY, end + end // 2))
        for index, rows in enumerate(new):
            self._parts[index % 2][index // 2, self._length : end] = rows
        self._length = end

    def _grow(self, capacity: int) -> None:
        for index, part in enumerate(self._parts):
            grown = np.empty((part.shape[0], capacity, *part.shape[2:]), np.float32)
            grown[:, : self._length] = part[:, : self._length]
            self._parts[index] = grown


def cache_names(prefix: str, num_layers: int) -> list[str]:
    return [f"{prefix}_{part}_{layer}" for layer in range(num_layers) for part in ("key", "value")]


def feed_of(batch: Sequence[Rows], caches: Sequence[OnnxCache], num_layers: int) -> Feed:
    """Sessions side by side, the shorter ones padded behind their past and behind their new rows."""
    past = max(map(len, caches))
    ids, positions, visible, wanted = _lone(batch[0]) if len(batch) == 1 else _side_by_side(batch, caches, past)
    feed: Feed = {"input_ids": ids, "position_ids": positions, "visible": visible, "wanted": np.array(wanted, np.int64)}
    names = cache_names("past", num_layers)
    for layer in range(num_layers):
        pasts = [cache.past(layer) for cache in caches]
        for part, name in enumerate(names[2 * layer : 2 * layer + 2]):
            feed[name] = stacked([both[part] for both in pasts], past)
    return feed


def _lone(rows: Rows) -> _Inputs:
    return rows.tokens[None], rows.positions[None], rows.visible[None], rows.wanted


def _side_by_side(batch: Sequence[Rows], caches: Sequence[OnnxCache], past: int) -> _Inputs:
    length = max(len(rows.tokens) for rows in batch)
    shape = (len(batch), length)
    ids, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    visible = np.zeros((*shape, past + length), bool)
    visible[:, :, past:] = np.eye(length, dtype=bool)  # padding sees itself: nothing at all has no average
    wanted: list[int] = []
    for index, (rows, cache) in enumerate(zip(batch, caches, strict=True)):
        count, own = len(rows.tokens), len(cache)
        ids[index, :count] = rows.tokens
        positions[index, :count] = rows.positions
        visible[index, :count, :own] = rows.visible[:, :own]
        visible[index, :count, past : past + count] = rows.visible[:, own:]
        wanted.extend(index * length + row for row in rows.wanted)
    return ids, positions, visible, wanted


def apart(rows: Past, counts: Sequence[int]) -> list[Past]:
    """Rows of several sessions, one behind the other, by session."""
    ends = itertools.accumulate(counts)
    return [rows[end - count : end] for count, end in zip(counts, ends, strict=True)]


def stacked(parts: Sequence[Past], length: int) -> Past:
    """[B, length, kv_heads, dim]. A lone one is not copied. Padding is 0: its weight is 0, but 0 * nan is not."""
    if len(parts) == 1:
        return parts[0][None]
    stacked = np.zeros((len(parts), length, *parts[0].shape[1:]), np.float32)
    for index, part in enumerate(parts):
        stacked[index, : len(part)] = part
    return stacked
