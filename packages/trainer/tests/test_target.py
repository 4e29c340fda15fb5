"""The target in the trainer's process: named, hashed and read as a verifier does."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_targets import EOS, HIDDEN, LAYERS, LENGTH, SHAPE, VOCAB, save_target
from transformers import AutoTokenizer, CohereConfig, Gemma2Config, GraniteConfig, Qwen3Config

from paceline.trainer.data import target as target_module
from paceline.trainer.data.target import Target, load_target, locate
from paceline.trainer.training.precision import has_bfloat16
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.settings import StartupError
from paceline.wire.tokenizer_files import HOW_IT_WAS_LOADED


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_target(tmp_path_factory.mktemp("targets") / "tiny")


def test_what_is_to_know_of_a_target(folder: Path) -> None:
    target = load_target(str(folder), "float32", 1)
    assert (target.num_layers, target.hidden_size, target.vocab_size) == (LAYERS, HIDDEN, VOCAB)
    assert (target.context_length, target.eos_token_ids, target.dtype) == (LENGTH, {EOS}, "float32")
    assert target.model_name == "tiny"
    assert target.embedding.shape == target.head.shape == (VOCAB, HIDDEN)
    assert not target.embedding.requires_grad
    assert not target.model.training


def test_the_hash_is_that_of_the_files_transformers_writes_but_for_how_it_was_loaded(
    folder: Path, tmp_path: Path
) -> None:
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_bytes())
    assert {"is_local", "local_files_only"} <= config.keys(), "transformers has other names for them now"
    kept = {key: value for key, value in config.items() if key not in HOW_IT_WAS_LOADED}
    text = json.dumps(kept, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    (tmp_path / "tokenizer_config.json").write_text(text, encoding="utf-8")
    whole = hashlib.sha256()
    for path in sorted(tmp_path.iterdir()):
        whole.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    assert load_target(str(folder), "float32", 1).tokenizer_hash == whole.hexdigest()


def test_the_hash_is_the_same_offline(folder: Path) -> None:
    """transformers reads HF_HUB_OFFLINE when it is imported."""
    code = (
        "import sys; from transformers import AutoTokenizer; from paceline.trainer.data.target import hash_of; "
        "print(hash_of(AutoTokenizer.from_pretrained(sys.argv[1])))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code, str(folder)],
            env={**os.environ, "HF_HUB_OFFLINE": offline, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for offline in ("0", "1")
    }
    assert found == {load_target(str(folder), "float32", 1).tokenizer_hash}


def test_auto_rounds_weights_to_bfloat16_and_computes_in_what_is_fast(folder: Path) -> None:
    exact, auto, half = (load_target(str(folder), dtype, 1) for dtype in ("float32", "auto", "bfloat16"))
    assert auto.dtype == ("bfloat16" if has_bfloat16(torch.device("cpu")) else "float32")
    assert half.dtype == "bfloat16"
    assert torch.equal(auto.embedding.float(), exact.embedding.bfloat16().float())
    assert torch.equal(auto.embedding.float(), half.embedding.float())


def test_chat_ids_end_where_the_answer_begins(folder: Path) -> None:
    target = load_target(str(folder), "float32", 1)
    ids = target.chat_ids([{"role": "user", "content": "ab"}])
    assert target.tokenizer.decode(ids) == "<user>ab"


def test_a_target_without_chat_template_is_refused(folder: Path) -> None:
    target = load_target(str(folder), "float32", 1)
    target.tokenizer.chat_template = None
    with pytest.raises(PacelineError) as caught:
        target.chat_ids([])
    assert caught.value.reason == Reason.NO_CHAT_TEMPLATE


def test_a_template_that_refuses_is_reported_without_the_text(folder: Path) -> None:
    target = load_target(str(folder), "float32", 1)
    target.tokenizer.chat_template = "{{ raise_exception(messages[0]['content']) }}"
    with pytest.raises(PacelineError) as caught:
        target.chat_ids([{"role": "user", "content": "secret"}])
    assert caught.value.reason == Reason.MALFORMED
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    "config",
    [
        Gemma2Config(**SHAPE, head_dim=8, query_pre_attn_scalar=8, final_logit_softcapping=3.0),
        GraniteConfig(**SHAPE, logits_scaling=4.0, embedding_multiplier=3.0),
        CohereConfig(**SHAPE, logit_scale=0.25),
        Qwen3Config(**SHAPE, head_dim=8, tie_word_embeddings=False),
    ],
    ids=lambda config: config.model_type,
)
def test_logits_and_features_are_those_of_the_architecture(tmp_path: Path, config: Any) -> None:
    target = load_target(str(save_target(tmp_path, config)), "float32", 1)
    ids = torch.tensor([[5, 9, 77, 30]])
    with torch.inference_mode(), target.features((0, 2)) as states:
        logits = target.logits(target.final(ids)[0])
    with torch.inference_mode():
        own = target.model(input_ids=ids, output_hidden_states=True)
    torch.testing.assert_close(logits, own.logits[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(states[0], own.hidden_states[0])
    torch.testing.assert_close(states[1], own.hidden_states[2])


def test_logits_made_in_an_unknown_way_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Target.logits
    monkeypatch.setattr(Target, "logits", lambda self, final: own(self, final) * 1.1)
    with pytest.raises(StartupError, match="isn't known here"):
        load_target(str(folder), "float32", 1)


def test_names_that_lead_nowhere_are_refused(tmp_path: Path) -> None:
    for name, why in (
        (str(tmp_path / "nothing"), "no such folder"),
        ("nothing.gguf", "no such folder or .gguf file"),
        ("package:no-such-package-here", "is not installed"),
        ("package:pytest", "carries no GGUF"),
        ("package:", "is not installed"),
        (str(tmp_path), "can't be loaded"),
    ):
        with pytest.raises(StartupError, match=why):
            load_target(name)
    with pytest.raises(StartupError, match="--dtype is 'int3'"):
        load_target("x", "int3")


def test_gguf_files_are_found_by_path_and_in_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "tiny.gguf"
    weights.write_bytes(b"")
    assert locate(str(weights)) == (str(tmp_path), {"gguf_file": "tiny.gguf"})
    file = importlib.metadata.PackagePath("tiny.gguf")
    file.dist = type("Distribution", (), {"locate_file": lambda _, path: tmp_path / path})()  # type: ignore[assignment]
    monkeypatch.setattr(target_module.importlib.metadata, "files", lambda name: [file])
    assert locate("package:tiny") == (str(tmp_path), {"gguf_file": "tiny.gguf"})
    assert locate("org/model") == ("org/model", {})
