"""The `export` command."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_lms import CONFIGS, LENGTH, VOCAB, WINDOW, chain_rows, close, fresh, random_tokens, save_model
from transformers import LlamaConfig

from paceline.drafter.models import export_steps
from paceline.drafter.models.export import ExportSettings, command_of, export
from paceline.drafter.models.export_steps import make_card, short_name
from paceline.drafter.models.onnx_lm import load_onnx
from paceline.drafter.models.torch_lm import load_torch, make_lm
from paceline.drafter.models.torch_load import load_causal_lm
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.model_card import LanguageModelCard
from paceline.wire.revision_folder import FORMAT, open_revision
from paceline.wire.settings import StartupError


def wanted(model: Path | str, out: Path, **more: Any) -> ExportSettings:
    return ExportSettings.model_validate({"model": str(model), "out": out, **more})


def run(*arguments: str | Path, setup: str = "") -> subprocess.CompletedProcess[str]:
    code = f"import sys\n{setup}\nfrom paceline.drafter.__main__ import main\nsys.exit(main())"
    command = [sys.executable, "-c", code, "export", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_makes_a_folder_that_runs(tmp_path: Path) -> None:
    """GPT-2: other layers, learned positions, no rotary embedding."""
    source, out = save_model(tmp_path / "tiny-gpt", CONFIGS["gpt2"]), tmp_path / "new" / "out"
    result = run("--model", source, "--out", out, "--quantize", "none", "--max-length", "100")
    assert result.returncode == 0, result.stderr
    assert "top-1 agreement with torch 100.0% over 256 positions" in result.stdout
    revision = open_revision(out)
    assert revision.revision_id in result.stdout
    assert revision.card == LanguageModelCard(
        architecture="GPT2LMHeadModel",
        vocab_size=VOCAB,
        max_length=100,
        num_layers=2,
        num_kv_heads=4,
        key_dim=8,
        value_dim=8,
        quantization="none",
    )
    manifest = revision.manifest
    assert (manifest.drafter, manifest.format, manifest.model) == ("tiny-gpt", FORMAT, "")
    assert manifest.metrics["top1_agreement"] == 1
    assert "--quantize none --max-length 100" in manifest.command
    model, text = load_onnx(out).model, random_tokens(50, 3)
    assert close(fresh(model, text), fresh(load_torch(str(source), device="cpu").model, text))
    with pytest.raises(PacelineError, match="below 100"):
        model.score([chain_rows(model.new_cache(), random_tokens(101, 3))])
    # what is done is told, line by line, and nothing else
    titles = ("loading torch", "loading /", "writing", "tracing", "comparing")
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == len(titles)
    for title, line in zip(titles, lines, strict=True):
        assert re.fullmatch(rf"{title}.* … \d+\.\d s", line)


def test_soft_caps_and_scaled_embeddings_go_into_the_graph(tmp_path: Path) -> None:
    """Gemma 2; its window bounds the length, since a graph sees everything."""
    source, out = save_model(tmp_path / "gemma", CONFIGS["gemma2"]), tmp_path / "out"
    export(wanted(source, out))
    assert open_revision(out).card.max_length == WINDOW
    assert open_revision(out).manifest.metrics["top1_agreement"] > 0.8


def test_help_needs_no_torch() -> None:
    result = run("--help", setup="sys.modules['torch'] = None")
    assert result.returncode == 0
    assert "--quantize {int8,none}" in result.stdout


@pytest.mark.parametrize("missing", ["torch", "onnx", "onnxruntime"])
def test_without_the_extra_it_says_what_to_install(tmp_path: Path, missing: str) -> None:
    result = run("--model", "x", "--out", tmp_path / "out", setup=f"sys.modules[{missing!r}] = None")
    assert result.returncode == 1
    assert "pip install 'paceline-drafter[export]'" in result.stderr
    assert "Traceback" not in result.stderr


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="exists"):
        export(wanted("x", tmp_path))


def test_what_can_not_be_loaded_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="no such folder"):
        export(wanted(tmp_path / "nothing", tmp_path / "out"))
    assert not list(tmp_path.iterdir())


def test_a_graph_that_computes_something_else_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save_model(tmp_path / "source", CONFIGS["llama"])
    monkeypatch.setattr(export_steps, "compare", lambda *_: (0.99, 0.5))
    monkeypatch.setattr(export_steps, "write_graph", lambda model, card, path: path.write_bytes(b""))
    monkeypatch.setattr(export_steps, "load_onnx", lambda folder, **_: load_torch(str(source), device="cpu"))
    with pytest.raises(StartupError, match="differ from torch's by"):
        export(wanted(source, tmp_path / "out", quantize="none"))
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def _card(folder: Path, max_length: int = 0) -> LanguageModelCard:
    loaded = load_causal_lm(str(folder), torch.device("cpu"), torch.float32)
    return make_card(str(folder), loaded, make_lm(str(folder), loaded), max_length)


def test_lengths_that_the_model_can_not_have_are_refused(tmp_path: Path) -> None:
    plain, windowed = (save_model(tmp_path / name, CONFIGS[name]) for name in ("llama", "mistral"))
    assert _card(plain).max_length == LENGTH
    assert _card(plain, 50).max_length == 50
    assert _card(windowed).max_length == WINDOW
    for folder, limit in ((plain, LENGTH), (windowed, WINDOW)):
        with pytest.raises(PacelineError, match=f"at most {limit}") as caught:
            _card(folder, limit + 1)
        assert caught.value.reason == Reason.OUT_OF_RANGE


def test_a_rotary_embedding_that_changes_with_length_is_refused(tmp_path: Path) -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    config = LlamaConfig(**{**CONFIGS["llama"].to_dict(), "rope_parameters": rope})
    with pytest.raises(PacelineError, match="dynamic") as caught:
        _card(save_model(tmp_path / "dynamic", config))
    assert caught.value.reason == Reason.UNUSABLE_REVISION


def test_the_command_is_told_as_it_can_be_typed(tmp_path: Path) -> None:
    command = command_of(wanted("a model", tmp_path, max_length=7))
    assert command.startswith("paceline-drafter export --model 'a model' --quantize int8 --max-length 7")


@pytest.mark.parametrize("name", ["org/tiny-lm", "folder/tiny-lm/", "x/tiny-lm.gguf", "package:tiny-lm"])
def test_short_names(name: str) -> None:
    assert short_name(name) == "tiny-lm"
