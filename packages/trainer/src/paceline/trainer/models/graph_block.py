"""One decoder block as a graph: attention over keys and values that come as inputs, and a gated MLP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from paceline.trainer.models.block import BlockShape
from paceline.trainer.models.graph_nodes import CONSTANT, RUNTIME, Array, Nodes
from paceline.trainer.models.graph_products import Products

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


def write_norm(nodes: Nodes, value: str, weight: str, eps: float) -> str:
    """Rows scaled to a root mean square of 1, times a weight."""
    return nodes.op("SimplifiedLayerNormalization", value, weight, axis=-1, epsilon=eps)


@dataclass(frozen=True, slots=True)
class BlockWriter:
    """Writes blocks of one shape.

    Attributes:
        nodes: the graph.
        products: of the same graph.
        shape: of the blocks.
        weights: of the module, by name.
    """

    nodes: Nodes
    products: Products
    shape: BlockShape
    weights: Mapping[str, Array]

    def norm(self, value: str, name: str) -> str:
        """The module's norm of that name."""
        weight = self.nodes.weight(f"{name}.weight", self.weights[f"{name}.weight"])
        return write_norm(self.nodes, value, weight, self.shape.norm_epsilon)

    def product(self, value: str, *names: str) -> str:
        """The module's linear layers of those names, side by side."""
        weights = [(f"{name}.weight", self.weights[f"{name}.weight"]) for name in names]
        return self.products.of(self.products.rows(value), weights)

    def block(self, stream: str, name: str, step: Step, past_key: str, past_value: str) -> tuple[str, str, str]:
        """Rows [B, Q, width] after the block of that name, and their keys and values [B, Q, kv_heads, dim]."""
        nodes, attention = self.nodes, f"{name}.self_attn"
        normed = self.norm(stream, f"{name}.input_layernorm")
        projected = self.product(normed, *(f"{attention}.{part}_proj" for part in "qkv"))
        attended, new_key, new_value = write_attention(nodes, self.shape, step, projected, past_key, past_value)
        stream = nodes.op("Add", stream, self.product(attended, f"{attention}.o_proj"))
        normed = self.norm(stream, f"{name}.post_attention_layernorm")
        both = self.product(normed, f"{name}.mlp.gate_proj", f"{name}.mlp.up_proj")
        gate, up = nodes.ops("Split", both, count=2, axis=-1, num_outputs=2)
        gated = nodes.op("Mul", nodes.op("Mul", gate, nodes.op("Sigmoid", gate)), up)
        return nodes.op("Add", stream, self.product(gated, f"{name}.mlp.down_proj")), new_key, new_value


def write_attention(
    nodes: Nodes, shape: BlockShape, step: Step, projected: str, past_key: str, past_value: str
) -> tuple[str, str, str]:
    """Queries, keys and values side by side [B, Q, all heads * dim] -> attended [B, Q, heads * dim], new key and value.

    Cached and new keys are not put in one piece: that would copy the cache at each step.
    """
    heads, kv_heads, dim = shape.num_heads, shape.num_kv_heads, shape.head_dim
    sizes = nodes.constant([heads * dim, kv_heads * dim, kv_heads * dim], np.int64)
    query, key, value = nodes.ops("Split", projected, sizes, count=3, axis=-1)
    by_head = nodes.constant([0, 0, kv_heads, dim], np.int64)
    new_key = nodes.op("Reshape", _turned(nodes, step, key, kv_heads), by_head)
    new_value = nodes.op("Reshape", value, by_head)
    # Query heads that share keys are rows of one product: [B, kv_heads, group * Q, dim].
    grouped = nodes.constant([0, 0, kv_heads, heads // kv_heads, dim], np.int64)
    query = nodes.op("Reshape", _turned(nodes, step, query, heads), grouped)
    query = nodes.op("Transpose", query, perm=[0, 2, 3, 1, 4])
    apart = nodes.op("Shape", query, start=0, end=4)
    stacked = nodes.op("Reshape", query, nodes.constant([0, 0, -1, dim], np.int64))
    parts = [
        (nodes.op("Transpose", keys, perm=[0, 2, 1, 3]), nodes.op("Transpose", values, perm=[0, 2, 1, 3]))
        for keys, values in ((past_key, past_value), (new_key, new_value))
    ]
    scores = [nodes.op("FusedMatMul", stacked, keys, domain=RUNTIME, transB=1, alpha=dim**-0.5) for keys, _ in parts]
    joined = nodes.op("Concat", *scores, axis=-1)
    split = nodes.op("Concat", apart, nodes.constant([-1], np.int64), axis=0)
    masked = nodes.op("Add", nodes.op("Reshape", joined, split), step.mask)
    weights = nodes.op("Reshape", nodes.op("Softmax", masked, axis=-1), nodes.op("Shape", joined))
    zero, last = nodes.constant([0], np.int64), nodes.constant([3], np.int64)
    of_past = nodes.op("Slice", weights, zero, step.num_past, last)
    of_new = nodes.op("Slice", weights, step.num_past, nodes.constant([2**31], np.int64), last)
    attended = nodes.op(
        "Add", *(nodes.op("MatMul", part, values) for part, (_, values) in zip((of_past, of_new), parts, strict=True))
    )
    split = nodes.op("Concat", apart, nodes.constant([dim], np.int64), axis=0)
    attended = nodes.op("Transpose", nodes.op("Reshape", attended, split), perm=[0, 3, 1, 2, 4])
    return nodes.op("Reshape", attended, nodes.constant([0, 0, heads * dim], np.int64)), new_key, new_value


def _turned(nodes: Nodes, step: Step, value: str, heads: int) -> str:
    """Rotated by position, [B, Q, heads * dim]."""
    inputs = (value, step.position_ids, step.cosines, step.sines)
    return nodes.op("RotaryEmbedding", *inputs, domain=RUNTIME, num_heads=heads, rotary_embedding_dim=0)
