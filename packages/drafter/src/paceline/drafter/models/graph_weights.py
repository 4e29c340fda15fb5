"""The weights in a graph, by name, without ONNX Runtime and without the package onnx.

A graph that a trainer wrote has its weights as initializers under its module's names, and its shape in its metadata.
Of ONNX's format (onnx.proto3, MIT) these are the few fields that it takes to find them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from paceline.drafter.models.onnx_session import unusable

_FLOAT, _INT8 = 1, 3  # TensorProto.DataType
_TYPES: dict[int, npt.DTypeLike] = {_FLOAT: "<f4", _INT8: "<i1"}
_FIELD = descriptor_pb2.FieldDescriptorProto
# Of each message: name, number, type, whether it is repeated.
_MESSAGES: dict[str, tuple[tuple[str, int, Any, bool], ...]] = {
    "Tensor": (
        ("dims", 1, _FIELD.TYPE_INT64, True),
        ("data_type", 2, _FIELD.TYPE_INT32, False),
        ("name", 8, _FIELD.TYPE_BYTES, False),
        ("raw_data", 9, _FIELD.TYPE_BYTES, False),
    ),
    "Entry": (("key", 1, _FIELD.TYPE_BYTES, False), ("value", 2, _FIELD.TYPE_BYTES, False)),
    "Graph": (("initializer", 5, "Tensor", True),),
    "Model": (("graph", 7, "Graph", False), ("metadata_props", 14, "Entry", True)),
}

Weight = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class GraphWeights:
    """What a graph carries.

    Attributes:
        metadata: of the model.
        weights: float32 and int8 initializers by name; views of the graph.
    """

    metadata: dict[bytes, bytes]
    weights: dict[bytes, Weight]

    def get(self, name: str, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> Weight:
        """Raises UNUSABLE_REVISION if there is no such weight, of that type and shape."""
        found = self.weights.get(name.encode())
        if found is None or found.dtype != dtype or found.shape != shape:
            raise unusable(f"its graph has no {name} of {shape}")
        return found


def read_graph_weights(graph: bytes) -> GraphWeights:
    """Raises UNUSABLE_REVISION for what is no graph."""
    try:
        model = _model()()
        model.ParseFromString(graph)
    except DecodeError as error:
        raise unusable("its graph can't be read; export the model again") from error
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return GraphWeights(metadata, dict(_weights(model.graph.initializer)))


def _weights(initializers: Any) -> Any:
    for tensor in initializers:
        dtype = _TYPES.get(tensor.data_type)
        shape = tuple(tensor.dims)
        if dtype is None or any(size < 0 for size in shape):
            continue
        if len(tensor.raw_data) == int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize:
            yield tensor.name, np.frombuffer(tensor.raw_data, dtype).reshape(shape)


@cache
def _model() -> Any:
    package = "paceline.onnx"
    file = descriptor_pb2.FileDescriptorProto(name="paceline/onnx.proto", package=package, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, repeated in fields:
            label = _FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
            described = message.field.add(name=field, number=number, label=label)
            if isinstance(kind, str):
                described.type, described.type_name = _FIELD.TYPE_MESSAGE, f".{package}.{kind}"
            else:
                described.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.Model"))
