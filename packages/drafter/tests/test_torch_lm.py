"""Language models run by torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import language_model_laws as laws
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_lms import (
    CONFIGS,
    LENGTH,
    VOCAB,
    close,
    filled,
    make_model,
    plain_logits,
    random_tokens,
    random_tree,
    save_model,
    tokenizer_json,
    tree_rows,
)
from transformers import BertConfig, BloomConfig, LlamaConfig, MambaConfig, T5Config

from paceline.drafter.models import torch_lm, torch_probe
from paceline.drafter.models.torch_lm import TorchLM, load_torch
from paceline.wire.errors import PacelineError, Reason


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: save_model(tmp_path_factory.mktemp(name), config) for name, config in CONFIGS.items()}


@pytest.fixture(scope="module", params=list(CONFIGS))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(folders: dict[str, Path], family: str) -> TorchLM:
    loaded = load_torch(str(folders[family]), device="cpu").model
    assert isinstance(loaded, TorchLM)
    return loaded


def test_a_loaded_model_says_what_it_is(folders: dict[str, Path]) -> None:
    loaded = load_torch(str(folders["llama"]), device="cpu", threads=1)
    assert (loaded.model.vocab_size, loaded.model.max_length) == (VOCAB, LENGTH)
    assert loaded.tokenizer_json == tokenizer_json()


def test_every_branch_of_a_tree_scores_as_transformers_scores_its_path(
    folders: dict[str, Path], family: str, model: TorchLM
) -> None:
    """Beyond the windows of those models that have one."""
    tree = random_tree(8, 3)
    scores = model.score([tree_rows(filled(model, laws.CONTEXT), tree)])[0]
    for node in range(len(tree.tokens)):
        path = [tree.tokens[above] for above in tree.path(node)]
        assert close(scores[node], plain_logits(folders[family], laws.CONTEXT + path))


@settings(max_examples=10, deadline=None)
@given(size=st.integers(1, 24), seed=st.integers(0, 1000))
def test_branches_score_as_paths_alone(model: TorchLM, size: int, seed: int) -> None:
    laws.branches_score_as_paths_alone(model, random_tree(size, seed))


def test_a_batch_scores_as_its_sessions_alone(model: TorchLM) -> None:
    laws.a_batch_scores_as_its_sessions_alone(model)


def test_what_is_kept_is_as_if_run_afresh(model: TorchLM) -> None:
    laws.what_is_kept_is_as_if_run_afresh(model)


def test_a_text_in_pieces_is_the_text(model: TorchLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_lm, "MAX_ROWS", 7)
    laws.a_text_in_pieces_is_the_text(model)


def test_rows_that_see_later_ones_are_not_cut(model: TorchLM, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = laws.chain_rows(model.new_cache(), random_tokens(20, 9))
    rows.visible[:, :] = True
    whole = model.score([rows])[0]
    rows.cache.keep(())
    monkeypatch.setattr(torch_lm, "MAX_ROWS", 7)
    assert close(model.score([rows])[0], whole)


def test_bad_rows_are_refused(model: TorchLM) -> None:
    laws.bad_rows_are_refused(model)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("none left"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_a_pass_that_fails_leaves_caches_as_they_were(
    model: TorchLM, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_lm, "MAX_ROWS", 7)
    cache = filled(model, laws.CONTEXT)
    passes = 0

    def fail_late(batch: Any, kept: list[int]) -> Any:
        nonlocal passes
        passes += 1
        if passes > 1:
            raise error
        return TorchLM._forward(model, batch, kept)

    with monkeypatch.context() as patched:
        patched.setattr(model, "_forward", fail_late)
        with pytest.raises(PacelineError, match="too little memory") as caught:
            model.score([laws.chain_rows(cache, random_tokens(20, 9))])
    assert caught.value.reason == Reason.OVERLOADED
    assert len(cache) == len(laws.CONTEXT)
    found = model.score([laws.chain_rows(cache, [5])])[0]
    assert close(found, laws.fresh(model, [*laws.CONTEXT, 5])[-1:])


def test_the_head_runs_on_wanted_rows_only(folders: dict[str, Path]) -> None:
    model = load_torch(str(folders["llama"]), device="cpu").model
    assert isinstance(model, TorchLM)
    seen: list[int] = []
    model._model.lm_head.register_forward_hook(lambda head, inputs, output: seen.append(inputs[0].shape[-2]))
    model.score([laws.chain_rows(model.new_cache(), random_tokens(30, 1), (29,))])
    assert seen == [1]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_near(folders: dict[str, Path], dtype: str) -> None:
    exact, half = (load_torch(str(folders["llama"]), device="cpu", dtype=kind).model for kind in ("float32", dtype))
    text = random_tokens(30, 4)
    wanted, found = laws.fresh(exact, text), laws.fresh(half, text)
    assert found.dtype == np.float32
    assert np.sqrt(np.square(wanted - found).mean()) < 0.1 * wanted.std()


def test_a_tokenizer_of_an_older_form_is_converted(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = save_model(tmp_path / "old", CONFIGS["gpt2"])
    core = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(core["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    assert json.loads(load_torch(str(folder), device="cpu").tokenizer_json)["model"]["type"] == "BPE"


def _save(folder: Path, config: Any) -> Path:
    """Also of what is no causal model."""
    folder.mkdir()
    config.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer_json())
    return folder


def _refused(folder: Path | str, **arguments: Any) -> str:
    with pytest.raises(PacelineError) as caught:
        load_torch(str(folder), **{"device": "cpu", **arguments})
    assert caught.value.reason == Reason.UNUSABLE_REVISION
    return str(caught.value)


def test_what_is_no_causal_language_model_is_refused(tmp_path: Path) -> None:
    assert "not causal language models" in _refused(_save(tmp_path / "t5", T5Config()))


def test_attention_in_both_directions_is_refused(tmp_path: Path) -> None:
    shape = {"vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    config = BertConfig(**shape, num_hidden_layers=2, initializer_range=0.3, is_decoder=False)
    assert "doesn't follow the tree" in _refused(save_model(tmp_path / "bert", config))


def test_a_state_that_can_not_branch_is_refused(tmp_path: Path) -> None:
    assert "linear_attention" in _refused(_save(tmp_path / "mamba", MambaConfig()))


def test_attention_that_can_not_be_exchanged_is_refused(tmp_path: Path) -> None:
    config = BloomConfig(vocab_size=VOCAB, hidden_size=32, n_layer=1, n_head=4)
    assert "no exchangeable attention" in _refused(save_model(tmp_path / "bloom", config))


def test_weights_that_are_missing_are_not_made_up(tmp_path: Path) -> None:
    folder = tmp_path / "headless"
    make_model(CONFIGS["llama"]).model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer_json())
    assert "lacks weights (lm_head.weight)" in _refused(folder)


def test_weights_of_another_form_than_safetensors_are_not_read(tmp_path: Path) -> None:
    folder = _save(tmp_path / "pickled", CONFIGS["llama"])
    torch.save(make_model(CONFIGS["llama"]).state_dict(), folder / "pytorch_model.bin")
    assert "safetensors" in _refused(folder)


def test_models_that_are_not_there_are_refused(tmp_path: Path) -> None:
    assert "no such folder" in _refused(tmp_path / "nothing")
    assert "is not installed" in _refused("package:surely-nobody-has-this")
    assert "carries no GGUF" in _refused("package:numpy")
    _save(tmp_path / "empty", CONFIGS["llama"])
    assert "can't be loaded" in _refused(tmp_path / "empty")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "config.json").write_text("{")
    assert "can't be loaded" in _refused(tmp_path / "bad")


def test_a_model_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "mute", CONFIGS["llama"])
    (folder / "tokenizer.json").unlink()
    assert "no usable tokenizer" in _refused(folder)
    (folder / "tokenizer.json").write_text("{")
    assert "no usable tokenizer" in _refused(folder)


def test_too_little_memory_is_said_in_one_line(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError("can't allocate memory")

    monkeypatch.setattr("paceline.drafter.models.torch_load.AutoModelForCausalLM.from_pretrained", fail)
    assert "too little memory" in _refused(folders["llama"])


def test_what_the_probe_is_for(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that computes something that exchanging its attention doesn't reach."""
    reference = torch_probe.reference_logits

    def otherwise(*arguments: Any) -> Any:
        return reference(*arguments)[::-1]

    monkeypatch.setattr(torch_lm, "reference_logits", otherwise)
    assert "doesn't follow the tree" in _refused(folders["llama"])


@pytest.mark.parametrize("arguments", [{"device": "tpu"}, {"device": "cuda:99"}, {"device": "meta"}, {"dtype": "int8"}])
def test_devices_and_dtypes_that_there_are_not(folders: dict[str, Path], arguments: dict[str, str]) -> None:
    with pytest.raises(PacelineError) as caught:
        load_torch(str(folders["llama"]), **{"device": "cpu", **arguments})
    assert caught.value.reason == Reason.OUT_OF_RANGE


def test_a_rotary_embedding_that_changes_with_length_bounds_the_length(tmp_path: Path) -> None:
    shape = {**CONFIGS["llama"].to_dict(), "rope_parameters": None}
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "original_max_position_embeddings": 64}
    config = LlamaConfig(**{**shape, "rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, **factors}})
    assert load_torch(str(save_model(tmp_path / "long", config)), device="cpu").model.max_length == 64
