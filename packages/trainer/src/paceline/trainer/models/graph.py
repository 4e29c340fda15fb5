"""Writes a drafter's graph from its weights, node by node: nothing is traced, so a refit has its graph in a moment.

What goes in and what comes out is told in `paceline.wire.model_card`. Weights are initializers under the module's own
names (`weights.read_graph` reads them back), so a revision may carry its graph alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import TensorProto

from paceline.trainer.models.block import BlockShape
from paceline.trainer.models.decoder import DecoderShape
from paceline.trainer.models.feature_head import FeatureHeadShape
from paceline.trainer.models.graph_attention import Step, rotary, write_step
from paceline.trainer.models.graph_block import BlockWriter, write_norm
from paceline.trainer.models.graph_nodes import CONSTANT, Array, Nodes
from paceline.trainer.models.graph_products import Products
from paceline.trainer.models.shapes import METADATA, shape_json
from paceline.wire.model_card import FeatureHeadCard, LanguageModelCard

Weights = Mapping[str, Array]  # float32, by the names of the module's parameters
EMBEDDING, HEAD = "embed_tokens.weight", "lm_head.weight"


def decoder_card(shape: DecoderShape, *, quantization: str) -> LanguageModelCard:
    """What is to know of a decoder; one with an unknown token has a vocabulary cut from the target's."""
    return LanguageModelCard(
        architecture="paceline.Decoder",
        vocab_size=shape.vocab_size,
        max_length=shape.max_length,
        num_layers=shape.num_layers,
        num_kv_heads=shape.num_kv_heads,
        key_dim=shape.head_dim,
        value_dim=shape.head_dim,
        quantization=quantization,
        cut_vocabulary=shape.unknown,
    )


def feature_head_card(
    shape: FeatureHeadShape,
    *,
    feature_layers: tuple[int, ...],
    max_length: int,
    window: int,
    quantization: str,
    borrows: bool = False,
) -> FeatureHeadCard:
    """What is to know of a feature head."""
    return FeatureHeadCard(
        architecture="paceline.FeatureHead",
        vocab_size=shape.vocab_size,
        max_length=max_length,
        num_layers=1,
        num_kv_heads=shape.block.num_kv_heads,
        key_dim=shape.block.head_dim,
        value_dim=shape.block.head_dim,
        quantization=quantization,
        width=shape.block.width,
        target_hidden_size=shape.target_hidden_size,
        feature_layers=feature_layers,
        window=window,
        borrows=borrows,
    )


def decoder_graph(card: LanguageModelCard, shape: DecoderShape, weights: Weights) -> bytes:
    """model.onnx of a `Decoder`."""
    graph = _Graph(card, shape.block, weights)
    stream = graph.looked_up("input_ids")
    new = []
    for layer in range(shape.num_layers):
        stream, key, value = graph.block(stream, f"layers.{layer}", layer)
        new += [key, value]
    graph.logits(graph.wanted(stream), EMBEDDING if shape.tied else HEAD)
    graph.cache(new)
    return graph.nodes.content({METADATA: shape_json(shape)})


def feature_head_graph(card: FeatureHeadCard, shape: FeatureHeadShape, weights: Weights) -> bytes:
    """model.onnx of a `FeatureHead`."""
    graph = _Graph(card, shape.block, weights)
    rows: tuple[int | str, ...] = ("B", "Q", card.width)
    hidden = graph.nodes.input("hidden", TensorProto.FLOAT, rows)
    embedded = graph.embedded(rows) if card.borrows else graph.looked_up("input_ids")
    beside = (graph.writer.norm(embedded, "embedding_norm"), graph.writer.norm(hidden, "hidden_norm"))
    mixed = graph.writer.product(graph.nodes.op("Concat", *beside, axis=-1), "mix_proj")
    new_hidden, key, value = graph.block(mixed, "block", 0)
    normed = graph.wanted(new_hidden)
    graph.logits(normed, EMBEDDING)
    graph.nodes.output("new_hidden", new_hidden, TensorProto.FLOAT, rows)
    graph.cache([key, value])
    if card.borrows:
        graph.nodes.output("normed", normed, TensorProto.FLOAT, ("W", card.width))
    return graph.nodes.content({METADATA: shape_json(shape)})


def fuse_graph(card: FeatureHeadCard, shape: FeatureHeadShape, weights: Weights) -> bytes:
    """fuse.onnx of a `FeatureHead`; takes one row or more."""
    nodes = Nodes()
    products = Products(nodes, int8=card.quantization == "int8")
    count, size = shape.num_features, shape.target_hidden_size
    features = nodes.input("features", TensorProto.FLOAT, ("N", count * size))
    layers = nodes.op("Reshape", features, nodes.constant([-1, count, size], np.int64))
    plain = nodes.weight(CONSTANT + "ones", np.ones(size, np.float32))
    scaled = write_norm(nodes, layers, plain, shape.block.norm_epsilon)
    rows = nodes.op("Reshape", scaled, nodes.constant([-1, count * size], np.int64))
    rows = nodes.op("Sub", rows, nodes.weight("feature_mean", weights["feature_mean"]))
    rows = nodes.op("Mul", rows, nodes.weight("feature_scale", weights["feature_scale"]))
    hidden = products.of(products.rows(rows), [("fuse_proj.weight", weights["fuse_proj.weight"])])
    nodes.output("hidden", hidden, TensorProto.FLOAT, ("N", card.width))
    return nodes.content({})


class _Graph:
    """What all graphs of language models have in common."""

    def __init__(self, card: LanguageModelCard, shape: BlockShape, weights: Weights) -> None:
        self.nodes = nodes = Nodes()
        self.products = Products(nodes, int8=card.quantization == "int8")
        self.writer = BlockWriter(nodes, self.products, shape, weights)
        self._card = card
        for name in ("input_ids", "position_ids"):
            nodes.input(name, TensorProto.INT64, ("B", "Q"))
        nodes.input("visible", TensorProto.BOOL, ("B", "Q", "P + Q"))
        nodes.input("wanted", TensorProto.INT64, ("W",))
        self._past = [
            nodes.input(f"past_{part}_{layer}", TensorProto.FLOAT, ("B", "P", card.num_kv_heads, dim))
            for layer in range(card.num_layers)
            for part, dim in (("key", card.key_dim), ("value", card.value_dim))
        ]
        angles = rotary(card.max_length, shape.head_dim, shape.rope_theta)
        self._step: Step = write_step(nodes, "position_ids", "visible", self._past[0], angles)

    def looked_up(self, ids: str) -> str:
        """Embeddings of these ids."""
        return self.products.looked_up(ids, EMBEDDING, self.writer.weights[EMBEDDING])

    def embedded(self, rows: tuple[int | str, ...]) -> str:
        """Embeddings of the input's ids; those above vocab_size are told from outside."""
        nodes = self.nodes
        others = nodes.input("others", TensorProto.FLOAT, rows)
        last = nodes.constant(self._card.vocab_size, np.int64)
        own = self.looked_up(nodes.op("Min", "input_ids", last))
        borrowed = nodes.op("Unsqueeze", nodes.op("Greater", "input_ids", last), nodes.constant([-1], np.int64))
        return nodes.op("Where", borrowed, others, own)

    def block(self, stream: str, name: str, layer: int) -> tuple[str, str, str]:
        past_key, past_value = self._past[2 * layer : 2 * layer + 2]
        return self.writer.block(stream, name, self._step, past_key, past_value)

    def wanted(self, stream: str) -> str:
        """[W, width], normed."""
        flat = self.nodes.op("Reshape", stream, self.nodes.constant([-1, self.writer.shape.width], np.int64))
        return self.writer.norm(self.nodes.op("Gather", flat, "wanted", axis=0), "norm")

    def logits(self, rows: str, name: str) -> None:
        """The head is half of all weights, so its rows are rough."""
        vocab_size = self._card.vocab_size
        rounded = self.products.rows(rows, fine=False)
        logits = self.products.of_first(rounded, vocab_size, name, self.writer.weights[name])
        self.nodes.output("logits", logits, TensorProto.FLOAT, ("W", vocab_size))

    def cache(self, new: list[str]) -> None:
        """New keys and values, layer by layer."""
        for index, value in enumerate(new):
            part, dim = (("key", self._card.key_dim), ("value", self._card.value_dim))[index % 2]
            shape = ("B", "Q", self._card.num_kv_heads, dim)
            self.nodes.output(f"new_{part}_{index // 2}", value, TensorProto.FLOAT, shape)
