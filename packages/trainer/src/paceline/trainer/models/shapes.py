"""A drafter's shape as JSON, which its graph carries: with it and the graph's weights the module can be made again."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Any

import torch
from torch import nn

from paceline.trainer.models.block import BlockShape
from paceline.trainer.models.decoder import Decoder, DecoderShape
from paceline.trainer.models.feature_head import FeatureHead, FeatureHeadShape
from paceline.wire.model_card import FeatureHeadCard, LanguageModelCard
from paceline.wire.revision import unusable

Shape = DecoderShape | FeatureHeadShape
METADATA = "paceline.shape"  # the key under which a graph carries it
MAX_JSON = 1 << 14
MAX_PARAMETERS = 1 << 29  # 2 GiB of float32, as much as one graph can hold
_KINDS: dict[str, type[Shape]] = {"decoder": DecoderShape, "feature_head": FeatureHeadShape}
_BOUNDS = {
    "vocab_size": 1 << 21,
    "target_hidden_size": 1 << 15,
    "num_features": 8,
    "width": 1 << 15,
    "num_layers": 256,
    "num_heads": 256,
    "num_kv_heads": 256,
    "head_dim": 1024,
    "intermediate": 1 << 17,
    "max_length": 1 << 20,
}


def shape_json(shape: Shape) -> str:
    """The inverse of `parse_shape`."""
    kind = next(name for name, kind in _KINDS.items() if isinstance(shape, kind))
    return json.dumps({"kind": kind, **asdict(shape)}, sort_keys=True)


def parse_shape(content: str, card: LanguageModelCard) -> Shape:
    """A shape, within bounds and the one that the card is of. Raises UNUSABLE_REVISION if it isn't."""
    if len(content) > MAX_JSON:
        raise unusable("shape", f"{len(content)} characters", f"at most {MAX_JSON}")
    try:
        document = json.loads(content)
        kind = _KINDS[document.pop("kind")]
        if kind is FeatureHeadShape:
            document["block"] = BlockShape(**_typed(BlockShape, document["block"]))
        shape: Shape = kind(**_typed(kind, document))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise unusable("shape", f"no shape ({type(error).__name__})", "one; make the revision again") from error
    _check(shape)
    if _of_card(shape) != _of_card(card):
        raise unusable("shape", "another than model.json says", "the same; make the revision again")
    return shape


def make_module(shape: Shape) -> nn.Module:
    """A module of that shape; its weights are whatever they are at the start."""
    return Decoder(shape) if isinstance(shape, DecoderShape) else FeatureHead(shape)


def parameter_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Names and shapes of its parameters; takes no memory for them."""
    with torch.device("meta"):
        return {name: tuple(parameter.shape) for name, parameter in make_module(shape).named_parameters()}


def _typed(kind: Any, document: dict[str, Any]) -> dict[str, Any]:
    """Annotations are strings here. Raises TypeError or KeyError."""
    if document.keys() != {field.name for field in fields(kind)}:
        raise KeyError("names")
    for field in fields(kind):
        value = document[field.name]
        if type(value).__name__ != str(field.type):
            raise TypeError(field.name)
    return document


def _check(shape: Shape) -> None:
    block = shape.block
    parts = (shape, block)
    for name, limit in _BOUNDS.items():
        for value in (getattr(part, name, 1) for part in parts):
            if not 1 <= value <= limit:
                raise unusable(f"shape: {name}", value, f"from 1 to {limit}")
    if block.num_heads % block.num_kv_heads or block.head_dim % 2:
        raise unusable("shape: num_heads, head_dim", (block.num_heads, block.head_dim), "whole groups, and even")
    if not (1 <= block.rope_theta <= 1e9 and 0 < block.norm_epsilon <= 1):
        raise unusable("shape: rope_theta, norm_epsilon", "out of range", "1 to 1e9, and 0 to 1")
    count = _num_parameters(shape)
    if count > MAX_PARAMETERS:
        raise unusable("shape", f"of {count} weights", f"of at most {MAX_PARAMETERS}")


def _num_parameters(shape: Shape) -> int:
    """At least as many as there are in matrices."""
    block = shape.block
    attention = 2 * block.width * block.head_dim * (block.num_heads + block.num_kv_heads)
    count = (attention + 3 * block.width * block.intermediate) * getattr(shape, "num_layers", 1)
    count += shape.vocab_size * block.width * (1 if getattr(shape, "tied", True) else 2)
    if isinstance(shape, FeatureHeadShape):
        count += block.width * (2 * block.width + shape.num_features * shape.target_hidden_size)
    return count


def _of_card(of: Shape | LanguageModelCard) -> tuple[object, ...]:
    """What a card and a shape both know."""
    if isinstance(of, DecoderShape):
        heads = (of.num_layers, of.num_kv_heads, of.head_dim, of.head_dim)
        return ("causal_lm", of.vocab_size, of.unknown, of.max_length, *heads)
    if isinstance(of, FeatureHeadShape):
        block = of.block
        heads = (1, block.num_kv_heads, block.head_dim, block.head_dim)
        return ("feature_head", of.vocab_size, block.width, of.target_hidden_size, of.num_features, *heads)
    heads = (of.num_layers, of.num_kv_heads, of.key_dim, of.value_dim)
    if isinstance(of, FeatureHeadCard):
        return ("feature_head", of.vocab_size, of.width, of.target_hidden_size, len(of.feature_layers), *heads)
    return ("causal_lm", of.vocab_size, of.cut_vocabulary, of.max_length, *heads)
