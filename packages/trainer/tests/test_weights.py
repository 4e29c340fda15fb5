"""Weights out and back, and what files are refused."""

from __future__ import annotations

import json
import struct
from functools import cache

import numpy as np
import onnx
import pytest
import small_drafters as small
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from safetensors.torch import load, save

from paceline.trainer.models.graph_products import LEVELS
from paceline.trainer.models.shapes import METADATA, make_module, parameter_shapes, parse_shape, shape_json
from paceline.trainer.models.weights import (
    load_weights,
    read_graphs,
    read_safetensors,
    read_shape,
    weights_of,
    write_safetensors,
)
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.revision_folder import GRAPH


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module", params=["decoder", "head"])
def module(request: pytest.FixtureRequest) -> torch.nn.Module:
    return small.feature_head() if request.param == "head" else small.decoder(tied=False, unknown=True)


def _shape(module: torch.nn.Module) -> small.DecoderShape | small.FeatureHeadShape:
    assert isinstance(module, small.Decoder | small.FeatureHead)
    return module.shape


def _refused(call: object, *arguments: object, match: str) -> None:
    assert callable(call)
    with pytest.raises(PacelineError, match=match) as caught:
        call(*arguments)
    assert caught.value.reason is Reason.UNUSABLE_REVISION


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_safetensors_come_back(module: torch.nn.Module, dtype: str) -> None:
    weights = weights_of(module)
    found = read_safetensors(write_safetensors(weights, dtype), parameter_shapes(_shape(module)))
    assert found.keys() == weights.keys()
    for name, weight in weights.items():
        wanted = weight if dtype == "float32" else torch.from_numpy(weight).bfloat16().float().numpy()
        np.testing.assert_array_equal(found[name], wanted)


def test_a_float_graph_gives_the_weights_back_exactly(module: torch.nn.Module) -> None:
    graphs = small.Runner(module, "none").graphs
    found = read_graphs(graphs.values(), parameter_shapes(_shape(module)))
    for name, weight in weights_of(module).items():
        np.testing.assert_array_equal(found[name], weight)


def test_an_int8_graph_gives_them_back_to_half_a_step_and_the_same_graph_again(module: torch.nn.Module) -> None:
    runner = small.Runner(module, "int8")
    shape = read_shape(runner.graphs[GRAPH], runner.card)
    assert shape == _shape(module)
    found = read_graphs(runner.graphs.values(), parameter_shapes(shape))
    for name, weight in weights_of(module).items():
        step = np.abs(weight).max(axis=-1, keepdims=True) / LEVELS if weight.ndim == 2 else 0
        assert (np.abs(found[name] - weight) <= 0.501 * step).all()
    again = make_module(shape)
    load_weights(again, found)
    text = small.text(runner, 30, 3)
    some, other = (small.Runner(each, "int8").run([text])[0].logits for each in (module, again))
    np.testing.assert_allclose(some, other, rtol=0, atol=1e-3 * float(np.abs(some).max()))


def test_the_shapes_json_comes_back_and_foreign_ones_are_refused(module: torch.nn.Module) -> None:
    card, shape = small.card_of(module, "none"), _shape(module)
    assert parse_shape(shape_json(shape), card) == shape
    good = json.loads(shape_json(shape))

    def changed(**values: object) -> str:
        return json.dumps({**good, **values})

    block = dict(good.get("block", {}))
    deep = "[" * 9000
    for content in ("", "[]", "{}", deep, "null", changed(kind="x"), changed(more=1), changed(vocab_size=True)):
        _refused(parse_shape, content, card, match="shape")
    _refused(parse_shape, changed(vocab_size=91), card, match="another than model.json")
    _refused(parse_shape, changed(vocab_size=1 << 40), card, match="vocab_size")
    _refused(parse_shape, " " * (1 << 15), card, match="characters")
    large = {"block": {**block, "width": 1 << 15, "intermediate": 1 << 17}} if block else {"intermediate": 1 << 17}
    large = large if block else {**large, "width": 1 << 15, "num_layers": 256}
    _refused(parse_shape, changed(**large), card, match="weights")
    nan = {"block": {**block, "rope_theta": float("nan")}} if block else {"rope_theta": float("nan")}
    _refused(parse_shape, changed(**nan), card, match="rope_theta")
    odd = {"block": {**block, "num_heads": 5}} if block else {"num_heads": 5}
    _refused(parse_shape, changed(**odd), card, match="num_heads")


def test_weights_that_are_not_finite_are_neither_taken_nor_given() -> None:
    module = small.decoder()
    weights = weights_of(module)
    weights["norm.weight"][3] = np.nan
    _refused(read_safetensors, write_safetensors(weights, "float32"), parameter_shapes(module.shape), match="finite")
    with torch.no_grad():
        module.norm.weight[0] = torch.inf
    _refused(weights_of, module, match="finite")


def test_weights_of_another_model_are_refused_and_nothing_is_changed() -> None:
    module, before = small.decoder(), weights_of(small.decoder())
    shapes = parameter_shapes(module.shape)
    missing = {name: weight for name, weight in before.items() if name != "norm.weight"}
    foreign = {**before, "extra": np.zeros(3, np.float32)}
    other = {**before, "norm.weight": np.ones(63, np.float32)}
    for weights, match in ((missing, "missing"), (foreign, "does not have"), (other, "of shape")):
        _refused(read_safetensors, write_safetensors(weights, "float32"), shapes, match=match)
        _refused(load_weights, module, weights, match=match)
    assert all(np.array_equal(weight, before[name]) for name, weight in weights_of(module).items())


def test_safetensors_of_other_types_and_too_large_ones_are_refused() -> None:
    module = small.decoder()
    weights, shapes = weights_of(module), parameter_shapes(module.shape)
    tensors = load(write_safetensors(weights, "float32"))
    tensors["norm.weight"] = tensors["norm.weight"].int()
    _refused(read_safetensors, save(tensors), shapes, match=r"torch\.int32")
    good = write_safetensors(weights, "float32")
    _refused(read_safetensors, good + bytes(1 << 21), shapes, match="bytes for this model")
    for header in (b"{}", b"[", b'{"a":{"dtype":"F32","shape":[99999999999],"data_offsets":[0,4]}}'):
        _refused(read_safetensors, struct.pack("<Q", len(header)) + header, shapes, match="weights.safetensors")
    _refused(read_safetensors, struct.pack("<Q", 1 << 62), shapes, match="damaged")


@cache
def _int8_graph() -> bytes:
    return small.Runner(small.decoder(), "int8").graphs[GRAPH]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_files_are_refused_or_give_weights_of_the_right_shapes(data: st.DataObject) -> None:
    module = small.decoder()
    shapes = parameter_shapes(module.shape)
    graph = data.draw(st.booleans())
    content = bytearray(_int8_graph() if graph else write_safetensors(weights_of(module), "bfloat16"))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        for _ in range(3):
            content[data.draw(st.integers(0, min(len(content) - 1, 4000)))] = data.draw(st.integers(0, 255))
    try:
        found = read_graphs([bytes(content)], shapes) if graph else read_safetensors(bytes(content), shapes)
    except PacelineError as error:
        assert error.reason is Reason.UNUSABLE_REVISION  # noqa: PT017
    else:
        assert {name: weight.shape for name, weight in found.items()} == shapes


def test_graphs_whose_numbers_are_elsewhere_or_of_another_size_are_refused() -> None:
    module = small.decoder()
    shapes, content = parameter_shapes(module.shape), small.Runner(module, "int8").graphs[GRAPH]

    def changed(name: str) -> tuple[onnx.ModelProto, TensorProto]:
        model = onnx.load_model_from_string(content)
        return model, next(tensor for tensor in model.graph.initializer if tensor.name == name)

    model, tensor = changed("norm.weight")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/hostname"
    _refused(read_graphs, [model.SerializeToString()], shapes, match="in the graph itself")
    model, tensor = changed("embed_tokens.weight")
    tensor.raw_data = tensor.raw_data[:-1]
    _refused(read_graphs, [model.SerializeToString()], shapes, match="not of its own size")
    model, tensor = changed("embed_tokens.weight.scale")
    tensor.dims[0] = 1 << 40
    _refused(read_graphs, [model.SerializeToString()], shapes, match="no scale")
    model, tensor = changed("embed_tokens.weight.scale")
    model.graph.initializer.remove(tensor)
    _refused(read_graphs, [model.SerializeToString()], shapes, match="with a scale")
    model, tensor = changed("norm.weight")
    tensor.data_type = TensorProto.DOUBLE
    _refused(read_graphs, [model.SerializeToString()], shapes, match="neither float32")
    _refused(read_graphs, [b"no graph"], shapes, match="no ONNX graph")
    model = onnx.load_model_from_string(content)
    del model.metadata_props[:]
    _refused(read_shape, model.SerializeToString(), small.card_of(module, "int8"), match="without the shape")
    onnx.helper.set_model_props(model, {METADATA: "{}"})
    _refused(read_shape, model.SerializeToString(), small.card_of(module, "int8"), match="shape")
