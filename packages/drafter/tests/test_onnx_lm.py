"""Language models run by ONNX Runtime, without torch."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import language_model_laws as laws
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from tiny_lms import CONFIGS, LENGTH, VOCAB, close, filled, fresh, random_tokens, random_tree, save_model, tree_rows

from paceline.drafter.models import onnx_lm, onnx_session
from paceline.drafter.models.base import LanguageModel
from paceline.drafter.models.export import ExportSettings, export
from paceline.drafter.models.onnx_cache import OnnxCache, feed_of
from paceline.drafter.models.onnx_lm import OnnxLM, load_onnx
from paceline.drafter.models.onnx_session import open_session
from paceline.drafter.models.torch_lm import load_torch
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.model_card import card_json
from paceline.wire.revision import MANIFEST
from paceline.wire.revision_folder import CARD, GRAPH, TOKENIZER, open_revision, seal


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("source"), CONFIGS["llama"])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, source: Path) -> dict[str, Path]:
    made = {kind: tmp_path_factory.mktemp("made") / kind for kind in ("none", "int8")}
    for kind, out in made.items():
        assert export(ExportSettings.model_validate({"model": str(source), "out": out, "quantize": kind})) == 0
    return made


@pytest.fixture(scope="module", params=["none", "int8"])
def model(request: pytest.FixtureRequest, folders: dict[str, Path]) -> OnnxLM:
    loaded = load_onnx(folders[request.param]).model
    assert isinstance(loaded, OnnxLM)
    return loaded


@pytest.fixture(scope="module")
def torch_model(source: Path) -> LanguageModel:
    return load_torch(str(source), device="cpu").model


def test_a_loaded_model_says_what_it_is(source: Path, folders: dict[str, Path]) -> None:
    loaded = load_onnx(folders["int8"])
    assert (loaded.model.vocab_size, loaded.model.max_length) == (VOCAB, LENGTH)
    assert loaded.tokenizer_json == (source / "tokenizer.json").read_text()
    assert loaded.name == source.name


@settings(max_examples=10, deadline=None)
@given(size=st.integers(1, 24), seed=st.integers(0, 1000))
def test_branches_score_as_paths_alone(model: OnnxLM, size: int, seed: int) -> None:
    laws.branches_score_as_paths_alone(model, random_tree(size, seed))


def test_a_batch_scores_as_its_sessions_alone(model: OnnxLM) -> None:
    """Also with weights in int8: no row is rounded by what is in others."""
    laws.a_batch_scores_as_its_sessions_alone(model)


def test_what_is_kept_is_as_if_run_afresh(model: OnnxLM) -> None:
    laws.what_is_kept_is_as_if_run_afresh(model)


def test_a_text_in_pieces_is_the_text(model: OnnxLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_lm, "MAX_ROWS", 7)
    laws.a_text_in_pieces_is_the_text(model)


def test_bad_rows_are_refused(model: OnnxLM) -> None:
    laws.bad_rows_are_refused(model)


def test_float_is_what_torch_says(folders: dict[str, Path], torch_model: LanguageModel) -> None:
    graph, tree = load_onnx(folders["none"]).model, random_tree(20, 11)
    some, other = (each.score([tree_rows(filled(each, laws.CONTEXT), tree)])[0] for each in (graph, torch_model))
    assert close(some, other)


def test_int8_mostly_agrees_with_torch(folders: dict[str, Path], torch_model: LanguageModel) -> None:
    """This model's weights are random and its layers narrow, so its best tokens are nearly tied: at least 4 of 5."""
    graph = load_onnx(folders["int8"]).model
    texts = [random_tokens(100, seed) for seed in range(5)]
    agree = [fresh(graph, text).argmax(1) == fresh(torch_model, text).argmax(1) for text in texts]
    assert 0.8 <= np.mean(agree) < 1


def test_int8_is_small(folders: dict[str, Path], source: Path) -> None:
    num_weights = sum(part.num_elements for part in _weights(folders["none"]))
    small = sum(part.num_bytes for part in _weights(folders["int8"]))
    assert small < 1.25 * num_weights  # a byte each, and a float32 scale for 32 of them


@dataclasses.dataclass
class _Weight:
    num_elements: int
    num_bytes: int


def _weights(folder: Path) -> list[_Weight]:
    parts = onnx.load(str(folder / GRAPH)).graph.initializer
    return [_Weight(int(np.prod(part.dims)), onnx.numpy_helper.to_array(part).nbytes) for part in parts]


def test_a_lone_session_is_not_copied(model: OnnxLM) -> None:
    cache = filled(model, laws.CONTEXT)
    assert isinstance(cache, OnnxCache)
    rows = [tree_rows(cache, random_tree(3, 0))]
    feed = feed_of(rows, [cache], 2)
    for name in onnx_lm.input_names(2)[4:]:
        assert feed[name].flags.c_contiguous
        assert feed[name].base is not None
        assert np.shares_memory(feed[name], cache._parts["value" in name])


def test_no_torch_is_needed(folders: dict[str, Path]) -> None:
    code = """
import sys
from pathlib import Path
import numpy as np
from paceline.drafter.models.base import Rows
from paceline.drafter.models.onnx_lm import load_onnx
model = load_onnx(Path(sys.argv[1])).model
rows = Rows(model.new_cache(), np.arange(3), np.arange(3), np.tri(3, dtype=bool), (2,))
assert model.score([rows])[0].shape == (1, model.vocab_size)
print([name for name in ("torch", "transformers", "onnx", "tokenizers") if name in sys.modules])
"""
    command = [sys.executable, "-c", code, str(folders["int8"])]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("provider", ["cuda", "auto", "cpu"])
def test_without_a_gpu_the_cpu_is_taken(
    folders: dict[str, Path], provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_session.onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with capture_logs() as logs:
        load_onnx(folders["int8"], provider=provider)
    assert [line["install"] for line in logs] == (["onnxruntime-gpu"] if provider == "cuda" else [])


@pytest.mark.parametrize("fails", [True, False])
def test_a_gpu_that_can_not_be_used_is_said(
    folders: dict[str, Path], fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime either raises, or takes the CPU and says nothing."""
    session = onnx_session.onnxruntime.InferenceSession

    def on_the_cpu(graph: bytes, options: Any, providers: list[str], **more: Any) -> Any:
        if fails and len(providers) > 1:
            raise RuntimeError("no driver")
        return session(graph, options, providers=["CPUExecutionProvider"], **more)

    monkeypatch.setattr(onnx_session.onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnx_session.onnxruntime, "InferenceSession", on_the_cpu)
    with capture_logs() as logs:
        load_onnx(folders["int8"])
    assert len(logs) == 1
    assert "runs on the CPU" in logs[0]["event"]


def test_a_provider_that_there_is_not(folders: dict[str, Path]) -> None:
    with pytest.raises(PacelineError) as caught:
        load_onnx(folders["int8"], provider="tpu")
    assert caught.value.reason == Reason.OUT_OF_RANGE


def _changed(folder: Path, out: Path, change: Callable[[Path], None]) -> PacelineError:
    """Changes a copy, and its manifest to match; returns why it is refused."""
    shutil.copytree(folder, out)
    change(out)
    seal(out, open_manifest(folder))
    with pytest.raises(PacelineError) as caught:
        load_onnx(out)
    assert caught.value.reason == Reason.UNUSABLE_REVISION
    return caught.value


def open_manifest(folder: Path) -> Any:
    return open_revision(folder).manifest


@pytest.mark.parametrize(
    "changes",
    [
        {"num_layers": 1},
        {"num_layers": 3},
        {"num_kv_heads": 1},
        {"key_dim": 4},
        {"value_dim": 16},
        {"vocab_size": VOCAB + 1},
    ],
)
def test_a_card_that_is_wrong_about_its_graph_is_refused(
    folders: dict[str, Path], tmp_path: Path, changes: dict[str, int]
) -> None:
    card = dataclasses.replace(open_revision(folders["int8"]).card, **changes)  # type: ignore[arg-type]
    _changed(folders["int8"], tmp_path / "odd", lambda out: (out / CARD).write_bytes(card_json(card)) and None)


@pytest.mark.parametrize("graph", [b"", b"not a graph", b"\x08" * 1000])
def test_what_is_no_graph_is_refused(folders: dict[str, Path], tmp_path: Path, graph: bytes) -> None:
    _changed(folders["int8"], tmp_path / "odd", lambda out: (out / GRAPH).write_bytes(graph) and None)


def test_a_tokenizer_that_is_no_text_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    _changed(folders["int8"], tmp_path / "odd", lambda out: (out / TOKENIZER).write_bytes(b"\xff") and None)


def test_a_graph_that_yields_no_numbers_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    def spoil(out: Path) -> None:
        graph = onnx.load(str(out / GRAPH))
        for part in graph.graph.initializer:
            if part.data_type == onnx.TensorProto.FLOAT:
                part.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(part) * np.nan, part.name))
        onnx.save(graph, str(out / GRAPH))

    assert "not finite" in _changed(folders["none"], tmp_path / "odd", spoil).message


@pytest.mark.parametrize("location", ["weights", "../here/weights", "{folder}/weights"])
def test_a_graph_may_not_read_other_files(tmp_path: Path, location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX lets weights lie in files of their own, of which the manifest would know nothing."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    weights = np.ones((64, 64), np.float32)
    (folder / "weights").write_bytes(weights.tobytes())
    tensor = onnx.numpy_helper.from_array(weights, "weights")
    onnx.external_data_helper.set_external_data(tensor, location.format(folder=folder), 0, weights.nbytes)
    tensor.ClearField("raw_data")
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 64]) for name in ("x", "y")]
    node = onnx.helper.make_node("MatMul", ["x", "weights"], ["y"])
    graph = onnx.helper.make_graph([node], "product", ends[:1], ends[1:], [tensor])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    with pytest.raises(PacelineError, match="External data path"):
        open_session(model.SerializeToString(), 1)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from([CARD, GRAPH, TOKENIZER, MANIFEST]),
    place=st.floats(0, 1),
    change=st.integers(1, 255),
    cut=st.booleans(),
)
def test_damaged_files_are_refused(
    folders: dict[str, Path], tmp_path: Path, name: str, place: float, change: int, cut: bool
) -> None:
    out = tmp_path / "damaged"
    if not out.exists():
        shutil.copytree(folders["int8"], out)
    whole = (out / name).read_bytes()
    at = int(place * (len(whole) - 1))
    damaged = whole[:at] if cut else whole[:at] + bytes([whole[at] ^ change]) + whole[at + 1 :]
    (out / name).write_bytes(damaged)
    try:
        load_onnx(out)
    except PacelineError as error:
        reason: Reason | None = error.reason
    else:
        reason = None
    (out / name).write_bytes(whole)
    # A manifest may be changed into another one that is well-formed: in its drafter's name, say.
    allowed = {Reason.UNUSABLE_REVISION, Reason.HASH_MISMATCH, None} if name == MANIFEST else {Reason.HASH_MISMATCH}
    assert reason in allowed
