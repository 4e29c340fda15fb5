"""Matrix products of a graph, float32 or int8.

In int8 a row of the input is rounded by its own greatest number, so no row depends on which others are in the batch
(ONNX Runtime's DynamicQuantizeLinear has one scale for all rows), and a weight by the greatest of its output. Sums are
exact integers. Inputs are unsigned and weights signed: the one pairing for which processors have an instruction that
ONNX Runtime uses (AVX-512 VNNI: 576 inputs, 8,192 outputs and 1 to 6 rows take 0.17 ms; with signed inputs, 5 ms).
Processors with AVX2 and no VNNI would saturate: whoever runs the graph there sets ONNX Runtime's
"session.x64quantprecision" to "1", which makes it exact, and must not elsewhere: it turns weights into unsigned ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from paceline.trainer.models.graph_nodes import RUNTIME, Array, Nodes

LEVELS = 127  # on each side of 0
ZERO = 128  # what stands for 0 among unsigned inputs
STEPS = 254  # of a fine number, between one rough number and the next
SMALLEST = 1e-20  # a row of zeros has no greatest number
SCALE = ".scale"  # a weight in int8 has an initializer beside it of that name's end: a float32 for each output


@dataclass(frozen=True, slots=True)
class Quantized:
    """A weight [outputs, inputs] in int8, and what each output's numbers are multiplied by, [outputs]."""

    numbers: Array
    scale: Array


def quantize(weight: Array) -> Quantized:
    """Each output on a scale of its own, symmetric."""
    scale = np.maximum(np.abs(weight).max(axis=1), SMALLEST).astype(np.float32) / np.float32(LEVELS)
    return Quantized(np.rint(weight / scale[:, None]).astype(np.int8), scale)


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows [..., inputs] that go into products, by name: as they are, or in 8 bits.

    Attributes:
        value: the rows in float32.
        numbers: uint8; of fine rows twice as many, the rough parts first.
        scale: float32 [..., 1].
    """

    value: str
    numbers: str = ""
    scale: str = ""
    fine: bool = False


class Products:
    """Writes products with weights [outputs, inputs].

    Weights lie in the graph as a module has them, each under its own name. That they are put side by side and turned
    is done once, when the graph is loaded: ONNX Runtime folds what is constant.
    """

    def __init__(self, nodes: Nodes, *, int8: bool) -> None:
        self._nodes = nodes
        self._int8 = int8

    def rows(self, value: str, *, fine: bool = True) -> Rows:
        """Rows to multiply, perhaps more than once.

        Args:
            value: [..., inputs].
            fine: in int8, whether a row is `scale * (rough + fine / STEPS)`, as good as 15 bits, at the price of twice
                the rows; there must be one. Else it is `scale * rough`: on SmolLM2's last layer and head 97 % of best
                tokens stay if all rows are rough, and 98 % if only the head's are.
        """
        if not self._int8:
            return Rows(value)
        nodes = self._nodes
        greatest = nodes.op("ReduceMax", nodes.op("Abs", value), nodes.constant([-1], np.int64), keepdims=1)
        if not fine:  # of no rows at all ONNX Runtime's reductions give as many columns as went in
            greatest = nodes.op("Slice", greatest, *(nodes.constant([number], np.int64) for number in (0, 1, -1)))
        some = nodes.op("Max", greatest, nodes.constant(SMALLEST, np.float32))
        scale = nodes.op("Mul", some, nodes.constant(1 / LEVELS, np.float32))
        numbers = nodes.op("Div", value, scale)
        if fine:
            rough = nodes.op("Round", numbers)
            rest = nodes.op("Mul", nodes.op("Sub", numbers, rough), nodes.constant(STEPS, np.float32))
            numbers = nodes.op("Concat", rough, rest, axis=0)
        # A cast cuts off what is behind the point; these are from 1.5 to 255.5.
        moved = nodes.op("Add", numbers, nodes.constant(ZERO + 0.5, np.float32))
        return Rows(value, nodes.op("Cast", moved, to=TensorProto.UINT8), scale, fine)

    def of(self, rows: Rows, weights: Sequence[tuple[str, Array]]) -> str:
        """Rows times each of some named weights, side by side: [..., all outputs]."""
        if not self._int8:
            return self._exact(rows, self._together([self._nodes.weight(name, weight) for name, weight in weights]))
        numbers, scales = zip(*(self._rounded(name, weight) for name, weight in weights), strict=True)
        return self._scaled(rows, self._together(numbers), self._together(scales))

    def of_first(self, rows: Rows, count: int, name: str, weight: Array) -> str:
        """Rows times a weight's first `count` outputs."""
        if not self._int8:
            return self._exact(rows, self._first(count, self._nodes.weight(name, weight)))
        numbers, scale = self._rounded(name, weight)
        return self._scaled(rows, self._first(count, numbers), self._first(count, scale))

    def looked_up(self, ids: str, name: str, weight: Array) -> str:
        """Rows of an embedding."""
        nodes = self._nodes
        if not self._int8:
            return nodes.op("Gather", nodes.weight(name, weight), ids, axis=0)
        numbers, scale = (nodes.op("Gather", part, ids, axis=0) for part in self._rounded(name, weight))
        rows = nodes.op("Cast", numbers, to=TensorProto.FLOAT)
        return nodes.op("Mul", rows, nodes.op("Unsqueeze", scale, nodes.constant([-1], np.int64)))

    def _exact(self, rows: Rows, weight: str) -> str:
        return self._nodes.op("MatMul", rows.value, self._nodes.op("Transpose", weight, perm=[1, 0]))

    def _scaled(self, rows: Rows, numbers: str, scale: str) -> str:
        nodes = self._nodes
        turned = nodes.op("Transpose", numbers, perm=[1, 0])
        one, zero = nodes.constant(1.0, np.float32), nodes.constant(ZERO, np.uint8)
        product = nodes.op("MatMulIntegerToFloat", rows.numbers, turned, one, scale, zero, domain=RUNTIME)
        if rows.fine:
            rough, rest = nodes.ops("Split", product, count=2, axis=0, num_outputs=2)
            product = nodes.op("Add", rough, nodes.op("Mul", rest, nodes.constant(1 / STEPS, np.float32)))
        return nodes.op("Mul", product, rows.scale)

    def _rounded(self, name: str, weight: Array) -> tuple[str, str]:
        if not self._nodes.has(name):
            small = quantize(weight)
            self._nodes.weight(name, small.numbers)
            self._nodes.weight(name + SCALE, small.scale)
        return name, name + SCALE

    def _together(self, names: Sequence[str]) -> str:
        return names[0] if len(names) == 1 else self._nodes.op("Concat", *names, axis=0)

    def _first(self, count: int, name: str) -> str:
        begin, end = (self._nodes.constant([value], np.int64) for value in (0, count))
        return self._nodes.op("Slice", name, begin, end, begin)
