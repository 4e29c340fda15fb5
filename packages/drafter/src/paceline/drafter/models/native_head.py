"""A head on the target's hidden states, run by native code: the same numbers as its graph's, in a third of the time.

Use it on processors that multiply bytes (VNNI). ONNX Runtime takes .7 ms for a pass of SmolLM2-135M's head, of which
its weights take .3 to be read: the rest are 160 operations on a few rows. Here they are one call, which leaves of
the logits what a tree needs.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from paceline.drafter.features import FeatureNeeds, Floats
from paceline.drafter.models.base import Rows, Scores, TopK
from paceline.drafter.models.checks import check_batch, check_told, first_moved
from paceline.drafter.models.graph_weights import GraphWeights, read_graph_weights
from paceline.drafter.models.onnx_session import unusable
from paceline.drafter.native.binding import HeadSession, HeadShape, NativeHead, Part
from paceline.wire.model_card import FeatureHeadCard

GROUP = 16  # positions whose keys lie side by side, as in native/attention.h; and what sizes are multiples of
MAX_INNER = 1 << 16  # products of bytes that 32 bits have room for
MIN_CAPACITY = 64  # rows
SHAPE = b"paceline.shape"  # where a graph says what its module is

# Keeps an array of that type while a pass runs; its address, or None for None.
Given = Callable[[npt.NDArray[Any] | None, npt.DTypeLike], int | None]

_MATRICES = {
    Part.MIX: "mix_proj",
    Part.QUERY: "block.self_attn.q_proj",
    Part.KEY: "block.self_attn.k_proj",
    Part.VALUE: "block.self_attn.v_proj",
    Part.OUT: "block.self_attn.o_proj",
    Part.GATE: "block.mlp.gate_proj",
    Part.UP: "block.mlp.up_proj",
    Part.DOWN: "block.mlp.down_proj",
}
_NORMS = {
    Part.EMBEDDING_NORM: "embedding_norm",
    Part.HIDDEN_NORM: "hidden_norm",
    Part.INPUT_NORM: "block.input_layernorm",
    Part.POST_NORM: "block.post_attention_layernorm",
    Part.NORM: "norm",
}


class NativeCache:
    """Keys, values and own states of one session's rows. See `base.KVCache`."""

    def __init__(self, shape: HeadShape) -> None:
        self._length = 0
        self.keys = np.empty((0, shape.key_heads, shape.head_size, GROUP), np.float32)  # by groups of rows
        self.values = np.empty((0, shape.key_heads, shape.head_size), np.float32)
        self.states = np.empty((0, shape.width), np.float32)

    def __len__(self) -> int:
        return self._length

    def keep(self, rows: Sequence[int]) -> None:
        start, count = first_moved(rows, self._length), len(rows)
        if start < count:
            old, new = np.asarray(rows[start:], np.int64), np.arange(start, count)
            self.keys[new // GROUP, :, :, new % GROUP] = self.keys[old // GROUP, :, :, old % GROUP]
            self.values[start:count] = self.values[old]
            self.states[start:count] = self.states[old]
        self._length = count

    def make_room(self, num_new: int) -> None:
        end = self._length + num_new
        if end > len(self.values):
            groups = -(-max(MIN_CAPACITY, end + end // 2) // GROUP)
            self.keys = _grown(self.keys, groups, -(-self._length // GROUP))
            self.values = _grown(self.values, groups * GROUP, self._length)
            self.states = _grown(self.states, groups * GROUP, self._length)

    def extend(self, num_new: int) -> None:
        """That many more rows have been written."""
        self._length += num_new


def _grown(part: Floats, capacity: int, held: int) -> Floats:
    # Not empty: the last group's keys are read whole, and what nobody has written must be a number.
    grown = np.zeros((capacity, *part.shape[1:]), np.float32)
    grown[:held] = part[:held]
    return grown


class NativeFeatureHead:
    """See `base.LanguageModel`; all of a session's rows in a pass come with features, or all with rows above them.

    Args:
        head: with its weights.
        shape: of it.
        card: what is to know of it.
    """

    def __init__(self, head: NativeHead, shape: HeadShape, card: FeatureHeadCard) -> None:
        self.vocab_size = card.vocab_size
        self.max_length = card.max_length
        self._head = head
        self._shape = shape
        layers = (0, *card.feature_layers) if card.borrows else card.feature_layers
        self.needs = FeatureNeeds(layers, card.target_hidden_size, card.window, card.borrows)

    @property
    def product(self) -> str:
        """How matrices are multiplied: "amx" or "vnni"."""
        return self._head.product

    def new_cache(self) -> NativeCache:
        return NativeCache(self._shape)

    def score(self, batch: Sequence[Rows]) -> list[Scores]:
        """See `base.LanguageModel`. Raises PacelineError: OUT_OF_RANGE or MALFORMED for rows that don't suit."""
        if not batch:
            return []
        shape = self._shape
        check_batch(batch, self.vocab_size + 1, self.max_length)
        check_told(batch, shape.num_features * shape.feature_size)
        sessions = (HeadSession * len(batch))()
        kept: list[npt.NDArray[Any]] = []  # what the sessions' pointers point to

        def given(array: npt.NDArray[Any] | None, dtype: npt.DTypeLike) -> int | None:
            if array is None:
                return None
            kept.append(np.ascontiguousarray(array, dtype))
            return kept[-1].ctypes.data

        scores: list[Scores] = []
        for session, rows in zip(sessions, batch, strict=True):
            _place(session, rows, given)
            scores.append(self._answer(session, rows))
        tokens, positions = (
            np.ascontiguousarray(parts[0] if len(parts) == 1 else np.concatenate(parts), np.int64)
            for parts in ([rows.tokens for rows in batch], [rows.positions for rows in batch])
        )
        self._head.forward(tokens, positions, sessions)
        for rows in batch:
            _own(rows).extend(len(rows.tokens))
        return scores

    def _answer(self, session: HeadSession, rows: Rows) -> Scores:
        """Where the session's results are going to be written."""
        wanted = len(rows.wanted)
        if 0 < rows.top_k <= self.vocab_size:
            top = TopK(
                np.empty((wanted, rows.top_k), np.int64), np.empty((wanted, rows.top_k), np.float32),
                np.empty(wanted), np.empty(wanted),
            )  # fmt: skip
            session.scale, session.num_best = rows.scale, rows.top_k
            session.best, session.best_logits = top.tokens.ctypes.data, top.logits.ctypes.data
            session.log_totals, session.entropies = top.log_totals.ctypes.data, top.entropies.ctypes.data
            return top
        others = 1 + rows.num_borrowed if rows.num_borrowed else 0
        logits = np.empty((wanted, self.vocab_size + others), np.float32)
        session.logits = logits.ctypes.data
        return logits


def _place(session: HeadSession, rows: Rows, given: Given) -> None:
    """Tells native code where a session's rows and cache lie."""
    cache, count = _own(rows), len(rows.tokens)
    cache.make_room(count)
    session.count, session.length = count, len(cache)
    session.keys, session.values, session.states = (
        part.ctypes.data for part in (cache.keys, cache.values, cache.states)
    )
    session.visible = given(rows.visible, np.bool_)
    session.features, session.above = given(rows.features, np.float32), given(rows.above, np.int64)
    session.borrowed, session.num_borrowed = given(rows.borrowed, np.float32), rows.num_borrowed
    session.wanted, session.num_wanted = given(np.array(rows.wanted, np.int64), np.int64), len(rows.wanted)


def _own(rows: Rows) -> NativeCache:
    assert isinstance(rows.cache, NativeCache), "caches come from new_cache"
    return rows.cache


def native_head(
    library: ctypes.CDLL, graph: bytes, fuse: bytes, card: FeatureHeadCard, threads: int, tiles: bool = True
) -> NativeFeatureHead:
    """A head that computes what its graphs do; see `NativeHead`. Raises UNUSABLE_REVISION if they aren't of the kind
    that it knows."""
    layer, fusing = read_graph_weights(graph), read_graph_weights(fuse)
    shape = _shape(layer, card)
    width, features = shape.width, shape.num_features * shape.feature_size
    outputs = {
        Part.QUERY: (shape.heads * shape.head_size, width),
        Part.KEY: (shape.key_heads * shape.head_size, width),
        Part.VALUE: (shape.key_heads * shape.head_size, width),
        Part.OUT: (width, shape.heads * shape.head_size),
        Part.MIX: (width, 2 * width),
        Part.GATE: (shape.intermediate, width),
        Part.UP: (shape.intermediate, width),
        Part.DOWN: (width, shape.intermediate),
    }
    angles = (card.max_length, shape.head_size // 2)
    head = NativeHead(library, shape, threads, tiles)
    _set_matrix(head, Part.EMBEDDING, layer, "embed_tokens", (shape.vocabulary + 1, width))
    _set_matrix(head, Part.FUSE, fusing, "fuse_proj", (width, features))
    for part, name in _MATRICES.items():
        _set_matrix(head, part, layer, name, outputs[part])
    for part, name in _NORMS.items():
        head.set(part, layer.get(f"{name}.weight", np.float32, (width,)))
    for part, name in ((Part.COSINES, "cosines"), (Part.SINES, "sines")):
        head.set(part, layer.get(f"constant/{name}", np.float32, angles))
    for part, name in ((Part.FEATURE_MEAN, "feature_mean"), (Part.FEATURE_SCALE, "feature_scale")):
        head.set(part, fusing.get(name, np.float32, (features,)))
    return NativeFeatureHead(head, shape, card)


def _set_matrix(head: NativeHead, part: Part, weights: GraphWeights, name: str, shape: tuple[int, int]) -> None:
    numbers = weights.get(f"{name}.weight", np.int8, shape)
    head.set(part, numbers, weights.get(f"{name}.weight.scale", np.float32, shape[:1]))


def _shape(weights: GraphWeights, card: FeatureHeadCard) -> HeadShape:
    try:
        block = json.loads(weights.metadata[SHAPE])["block"]
        heads, intermediate, epsilon = block["num_heads"], block["intermediate"], float(block["norm_epsilon"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise unusable("its graph doesn't say what shape it has") from error
    num_features = len(card.feature_layers)
    sizes = (heads, intermediate, card.width, card.key_dim, card.target_hidden_size)
    if any(type(size) is not int or size < 1 for size in sizes) or not 0.0 <= epsilon < 1.0:
        raise unusable("its graph has a shape that is none")
    if max(heads * card.key_dim, intermediate, 2 * card.width, num_features * card.target_hidden_size) > MAX_INNER:
        raise unusable(f"its sizes {sizes} are beyond what sums of bytes have room for")
    if any(size % GROUP for size in sizes[1:]) or heads % card.num_kv_heads or card.key_dim != card.value_dim:
        raise unusable(f"its sizes {sizes[1:]} are no multiples of {GROUP}")
    return HeadShape(
        width=card.width,
        heads=heads,
        key_heads=card.num_kv_heads,
        head_size=card.key_dim,
        intermediate=intermediate,
        vocabulary=card.vocab_size,
        num_features=num_features,
        feature_size=card.target_hidden_size,
        max_length=card.max_length,
        epsilon=epsilon,
    )
