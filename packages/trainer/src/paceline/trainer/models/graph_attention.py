"""Attention as a graph: over keys and values that come as inputs and over the new rows' own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from paceline.trainer.models.block import BlockShape
from paceline.trainer.models.graph_nodes import CONSTANT, RUNTIME, Array, Nodes

HIDDEN = -3.0e38  # added to a score; -inf would be nan where padding sees nothing


@dataclass(frozen=True, slots=True)
class Rotary:
    """Cosines and sines by position, [max_length, head_dim / 2]."""

    cosines: Array
    sines: Array


def rotary(max_length: int, head_dim: int, theta: float) -> Rotary:
    """Angles in float64: in float32 they are 1e-4 off at position 4,000."""
    inverse = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    angles = np.arange(max_length, dtype=np.float64)[:, None] * inverse
    return Rotary(np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32))


@dataclass(frozen=True, slots=True)
class Step:
    """What all blocks of a graph share: values by name.

    Attributes:
        position_ids: [B, Q].
        mask: [B, 1, 1, Q, P + Q], added to scores.
        num_past: [1], P.
        cosines, sines: [max_length, head_dim / 2].
    """

    position_ids: str
    mask: str
    num_past: str
    cosines: str
    sines: str


def write_step(nodes: Nodes, position_ids: str, visible: str, past_key: str, angles: Rotary) -> Step:
    """Writes what all blocks share."""
    float32 = np.float32
    mask = nodes.op("Where", visible, nodes.constant(0.0, float32), nodes.constant(HIDDEN, float32))
    return Step(
        position_ids,
        nodes.op("Unsqueeze", mask, nodes.constant([1, 2], np.int64)),
        nodes.op("Shape", past_key, start=1, end=2),
        nodes.weight(CONSTANT + "cosines", angles.cosines),
        nodes.weight(CONSTANT + "sines", angles.sines),
    )


@dataclass(frozen=True, slots=True)
class AttentionWriter:
    """Writes attention of blocks of one shape.

    Attributes:
        nodes: the graph.
        shape: of the blocks.
        step: of the same graph.
    """

    nodes: Nodes
    shape: BlockShape
    step: Step

    def attention(self, projected: str, past_key: str, past_value: str) -> tuple[str, str, str]:
        """Queries, keys and values side by side [B, Q, all heads * dim] -> attended [B, Q, heads * dim], new keys and
        values [B, Q, kv_heads, dim]."""
        nodes, shape = self.nodes, self.shape
        dim, kv_heads = shape.head_dim, shape.num_kv_heads
        sizes = nodes.constant([shape.num_heads * dim, kv_heads * dim, kv_heads * dim], np.int64)
        query, key, value = nodes.ops("Split", projected, sizes, count=3, axis=-1)
        by_head = nodes.constant([0, 0, kv_heads, dim], np.int64)
        new_key = nodes.op("Reshape", self._turned(key, kv_heads), by_head)
        new_value = nodes.op("Reshape", value, by_head)
        grouped = nodes.constant([0, 0, kv_heads, shape.num_heads // kv_heads, dim], np.int64)
        query = nodes.op("Reshape", self._turned(query, shape.num_heads), grouped)
        query = nodes.op("Transpose", query, perm=[0, 2, 3, 1, 4])
        attended = self._attended(query, (past_key, new_key), (past_value, new_value))
        attended = nodes.op("Transpose", attended, perm=[0, 3, 1, 2, 4])
        flat = nodes.constant([0, 0, shape.num_heads * dim], np.int64)
        return nodes.op("Reshape", attended, flat), new_key, new_value

    def _attended(self, query: str, keys: tuple[str, str], values: tuple[str, str]) -> str:
        """Sums of values [B, kv_heads, group, Q, dim], for queries of that shape.

        Cached and new rows are not put in one piece: that would copy the cache once more at each step. Query heads that
        share keys are rows of one product.
        """
        nodes, dim = self.nodes, self.shape.head_dim
        by_group = nodes.op("Shape", query, start=0, end=4)
        stacked = nodes.op("Reshape", query, nodes.constant([0, 0, -1, dim], np.int64))
        scores = [
            nodes.op("FusedMatMul", stacked, self._heads_first(key), domain=RUNTIME, transB=1, alpha=dim**-0.5)
            for key in keys
        ]
        joined = nodes.op("Concat", *scores, axis=-1)
        masked = nodes.op("Add", self._regrouped(joined, by_group, -1), self.step.mask)
        weights = nodes.op("Reshape", nodes.op("Softmax", masked, axis=-1), nodes.op("Shape", joined))
        zero, last, end = (nodes.constant([number], np.int64) for number in (0, 3, 2**31))
        cuts = ((zero, self.step.num_past), (self.step.num_past, end))
        sums = [
            nodes.op("MatMul", nodes.op("Slice", weights, *cut, last), self._heads_first(value))
            for cut, value in zip(cuts, values, strict=True)
        ]
        return self._regrouped(nodes.op("Add", *sums), by_group, dim)

    def _turned(self, value: str, heads: int) -> str:
        """Rotated by position, [B, Q, heads * dim]."""
        inputs = (value, self.step.position_ids, self.step.cosines, self.step.sines)
        return self.nodes.op("RotaryEmbedding", *inputs, domain=RUNTIME, num_heads=heads, rotary_embedding_dim=0)

    def _heads_first(self, value: str) -> str:
        return self.nodes.op("Transpose", value, perm=[0, 2, 1, 3])

    def _regrouped(self, value: str, by_group: str, size: int) -> str:
        """[B, kv_heads, group * Q, size] to [B, kv_heads, group, Q, size]."""
        shape = self.nodes.op("Concat", by_group, self.nodes.constant([size], np.int64), axis=0)
        return self.nodes.op("Reshape", value, shape)
