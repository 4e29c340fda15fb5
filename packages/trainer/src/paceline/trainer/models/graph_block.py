"""One decoder block as a graph: attention and a gated MLP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from paceline.trainer.models.block import BlockShape
from paceline.trainer.models.graph_attention import AttentionWriter, Step
from paceline.trainer.models.graph_nodes import Array, Nodes
from paceline.trainer.models.graph_products import Products


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
        attended, new_key, new_value = AttentionWriter(nodes, self.shape, step).attention(
            projected, past_key, past_value
        )
        stream = nodes.op("Add", stream, self.product(attended, f"{attention}.o_proj"))
        normed = self.norm(stream, f"{name}.post_attention_layernorm")
        both = self.product(normed, f"{name}.mlp.gate_proj", f"{name}.mlp.up_proj")
        gate, up = nodes.ops("Split", both, count=2, axis=-1, num_outputs=2)
        gated = nodes.op("Mul", nodes.op("Mul", gate, nodes.op("Sigmoid", gate)), up)
        return nodes.op("Add", stream, self.product(gated, f"{name}.mlp.down_proj")), new_key, new_value
