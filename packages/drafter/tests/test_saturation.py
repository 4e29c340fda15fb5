"""The probe for saturating sums is the graph that it is said to be."""

from __future__ import annotations

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from paceline.drafter.models.saturation import OPTION, PROBE, saturates


def test_the_probe_is_one_product_of_the_greatest_numbers() -> None:
    nodes = [
        helper.make_node(
            "ConstantOfShape", ["shape"], ["weight"], value=helper.make_tensor("value", TensorProto.INT8, [1], [127])
        ),
        helper.make_node("MatMulInteger", ["rows", "weight"], ["sums"]),
    ]
    graph = helper.make_graph(
        nodes,
        "probe",
        [helper.make_tensor_value_info("rows", TensorProto.UINT8, [1, 64])],
        [helper.make_tensor_value_info("sums", TensorProto.INT32, [1, 32])],
        initializer=[helper.make_tensor("shape", TensorProto.INT64, [2], [64, 32])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8, producer_name="")
    assert model.SerializeToString(deterministic=True) == PROBE


def test_with_the_option_sums_are_right_on_any_processor() -> None:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(*OPTION)
    session = onnxruntime.InferenceSession(PROBE, options, providers=["CPUExecutionProvider"])
    sums = session.run(None, {"rows": np.full((1, 64), 255, np.uint8)})[0]
    assert (sums == 64 * 255 * 127).all()
    assert isinstance(saturates(), bool)
