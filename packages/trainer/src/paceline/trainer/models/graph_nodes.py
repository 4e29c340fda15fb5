"""Writes ONNX nodes one after the other, so that a graph reads like the function that it computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

OPSET = 18
IR_VERSION = 9
CONSTANT = "constant/"  # in front of the names of initializers that stand for no weight
RUNTIME = "com.microsoft"  # operators that ONNX Runtime has beyond the standard

Array = npt.NDArray[Any]


class Nodes:
    """A graph that grows. Values are known by name; `op` returns the name of what the new node gives."""

    def __init__(self) -> None:
        self._nodes: list[NodeProto] = []
        self._initializers: dict[str, TensorProto] = {}
        self._inputs: list[ValueInfoProto] = []
        self._outputs: list[ValueInfoProto] = []

    def input(self, name: str, kind: int, shape: Sequence[int | str]) -> str:
        """Declares an input; a dimension that is a string may be of any size."""
        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, name: str, value: str, kind: int, shape: Sequence[int | str]) -> None:
        """Gives a value to the outside under that name."""
        self._nodes.append(helper.make_node("Identity", [value], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def weight(self, name: str, array: Array) -> str:
        """An initializer that stands for a weight, and keeps its name."""
        if name not in self._initializers:
            self._initializers[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def has(self, name: str) -> bool:
        """Whether there is such an initializer."""
        return name in self._initializers

    def constant(self, value: Any, dtype: Any) -> str:
        """A small constant; equal ones are one."""
        array = np.asarray(value, dtype)
        return self.weight(f"{CONSTANT}{array.dtype}/{array.tolist()}".replace(" ", ""), array)

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Adds a node with one output."""
        return self.ops(kind, *inputs, count=1, domain=domain, **attributes)[0]

    def ops(self, kind: str, *inputs: str, count: int, domain: str = "", **attributes: Any) -> list[str]:
        """Adds a node with several outputs."""
        outputs = [f"{kind}/{len(self._nodes)}/{index}" for index in range(count)]
        self._nodes.append(helper.make_node(kind, list(inputs), outputs, domain=domain, **attributes))
        return outputs

    def content(self, metadata: Mapping[str, str]) -> bytes:
        """The graph as a file has it, with some texts that no runtime looks at."""
        graph = helper.make_graph(
            self._nodes, "paceline", self._inputs, self._outputs, list(self._initializers.values())
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(RUNTIME, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="paceline")
        helper.set_model_props(model, dict(metadata))
        content: bytes = model.SerializeToString()
        return content
