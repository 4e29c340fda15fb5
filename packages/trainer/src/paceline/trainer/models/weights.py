"""Weights of drafters: out to safetensors, and back from there or from a graph.

What is read was made by whoever published it, so it is held against the module that it is for: names and shapes are
known before a byte is parsed, and with them how large a file may be.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto, numpy_helper
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from paceline.trainer.models.graph_nodes import CONSTANT, Array
from paceline.trainer.models.graph_products import SCALE
from paceline.trainer.models.shapes import METADATA, Shape, parse_shape
from paceline.wire.model_card import LanguageModelCard
from paceline.wire.revision import unusable
from paceline.wire.revision_folder import GRAPH, WEIGHTS

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MAX_HEADER_BYTES = 1 << 20
MAX_INITIALIZERS = 1 << 14
AGAIN = "fetch or make the revision again"

Shapes = Mapping[str, tuple[int, ...]]


def weights_of(module: nn.Module) -> dict[str, Array]:
    """A module's parameters, float32, as they are now.

    Raises UNUSABLE_REVISION if one of them is not finite: nobody may publish such.
    """
    weights = {name: value.detach().float().cpu().numpy().copy() for name, value in module.named_parameters()}
    _check_finite(weights, "the module")
    return weights


def load_weights(module: nn.Module, weights: Mapping[str, Array]) -> None:
    """Gives a module weights of its names and shapes. Raises UNUSABLE_REVISION, and changes nothing, if they aren't."""
    wanted = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    _check_shapes({name: value.shape for name, value in weights.items()}, wanted, "weights")
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(torch.from_numpy(weights[name]))


def write_safetensors(weights: Mapping[str, Array], dtype: str) -> bytes:
    """weights.safetensors; dtype is one of DTYPES."""
    tensors = {name: torch.from_numpy(value).to(DTYPES[dtype]) for name, value in weights.items()}
    content: bytes = save(tensors)
    return content


def read_safetensors(content: bytes, shapes: Shapes) -> dict[str, Array]:
    """The inverse of `write_safetensors`, float32. Raises UNUSABLE_REVISION for a file that is not of such weights."""
    limit = MAX_HEADER_BYTES + 4 * sum(prod(shape) for shape in shapes.values())
    if len(content) > limit:
        raise unusable(WEIGHTS, f"{len(content)} bytes", f"at most {limit} bytes for this model; {AGAIN}")
    try:
        tensors = load(content)
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise unusable(WEIGHTS, f"damaged ({_first_line(error)})", f"a safetensors file; {AGAIN}") from error
    _check_shapes({name: tuple(tensor.shape) for name, tensor in tensors.items()}, shapes, WEIGHTS)
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES.values():
            raise unusable(f"{WEIGHTS}: {name}", str(tensor.dtype), f"one of {', '.join(DTYPES)}; {AGAIN}")
    weights = {name: tensor.float().numpy() for name, tensor in tensors.items()}
    _check_finite(weights, WEIGHTS)
    return weights


def read_graphs(contents: Iterable[bytes], shapes: Shapes) -> dict[str, Array]:
    """Weights out of graphs that `graph` wrote: model.onnx, and a feature head's fuse.onnx. What was int8 is near what
    it was made of, and what one may go on training from.

    Args:
        contents: of the files, their size checked (`revision_folder` does).
        shapes: of the module that the weights are for.

    Raises:
        PacelineError: UNUSABLE_REVISION: they are no graphs, or not of such a module.
    """
    found: dict[str, TensorProto] = {}
    for content in contents:
        for tensor in _initializers(content):
            if not tensor.name.startswith(CONSTANT):
                found[tensor.name] = tensor
    names = {name for name in found if not (name.endswith(SCALE) and name.removesuffix(SCALE) in found)}
    _check_shapes({name: tuple(found[name].dims) for name in names}, shapes, GRAPH)
    weights = {name: _weight(found, name) for name in sorted(names)}
    _check_finite(weights, GRAPH)
    return weights


def read_shape(content: bytes, card: LanguageModelCard) -> Shape:
    """The shape of what a graph was made of. Raises UNUSABLE_REVISION for a graph without, or of another model."""
    properties = [item.value for item in _parsed(content).metadata_props if item.key == METADATA]
    if len(properties) != 1:
        raise unusable(GRAPH, "without the shape of its model", "one that this trainer wrote; take another revision")
    return parse_shape(properties[0], card)


def _initializers(content: bytes) -> list[TensorProto]:
    initializers = list(_parsed(content).graph.initializer)
    if len(initializers) > MAX_INITIALIZERS:
        raise unusable(GRAPH, f"of {len(initializers)} initializers", f"of at most {MAX_INITIALIZERS}")
    return initializers


def _parsed(content: bytes) -> ModelProto:
    try:
        return onnx.load_model_from_string(content)
    except (DecodeError, ValueError, TypeError) as error:
        raise unusable(GRAPH, "no ONNX graph", f"one; {AGAIN}") from error


def _weight(found: Mapping[str, TensorProto], name: str) -> Array:
    """Its shape is known to be right."""
    tensor = found[name]
    if tensor.data_type == TensorProto.FLOAT:
        return _numbers(tensor)
    if tensor.data_type != TensorProto.INT8 or name + SCALE not in found:
        raise unusable(f"{GRAPH}: {name}", "neither float32 nor int8 with a scale", f"one of them; {AGAIN}")
    scale = found[name + SCALE]
    if scale.data_type != TensorProto.FLOAT or tuple(scale.dims) != tuple(tensor.dims[:1]):
        raise unusable(f"{GRAPH}: {name}{SCALE}", "no scale", f"a float32 for each output; {AGAIN}")
    weight: Array = _numbers(tensor).astype(np.float32) * _numbers(scale)[:, None]
    return weight


def _numbers(tensor: TensorProto) -> Array:
    """Of a tensor whose numbers lie in it, as this package writes them: one in a file elsewhere is nobody's to open."""
    size = (4 if tensor.data_type == TensorProto.FLOAT else 1) * prod(tensor.dims)
    if tensor.data_location != TensorProto.DEFAULT or tensor.external_data or len(tensor.raw_data) != size:
        raise unusable(f"{GRAPH}: {tensor.name}", "not of its own size", f"{size} bytes in the graph itself; {AGAIN}")
    numbers: Array = numpy_helper.to_array(tensor).copy()
    return numbers


def _check_shapes(found: Shapes, wanted: Shapes, where: str) -> None:
    missing, foreign = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing or foreign:
        which = f"{missing[0]!r} missing" if missing else f"{foreign[0][:80]!r} that the model does not have"
        raise unusable(where, f"with {which}", f"of {len(wanted)} weights, those of the model; {AGAIN}")
    for name, shape in wanted.items():
        if tuple(found[name]) != tuple(shape):
            raise unusable(f"{where}: {name}", f"of shape {str(list(found[name]))[:80]}", f"of shape {list(shape)}")


def _check_finite(weights: Mapping[str, Array], where: str) -> None:
    for name, weight in weights.items():
        if not np.isfinite(weight).all():
            raise unusable(f"{where}: {name}", "not finite", "finite; go back to weights that are")


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
