"""Which engine takes a model, and what the process that serves has to import for it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import pytest
from tiny_models import save_target

from paceline.verifier.model.engines import AUTO, AUTO_ENGINES, open_target
from paceline.verifier.model.lean_runner import LeanRunner
from paceline.verifier.model.native_runner import NativeRunner
from paceline.verifier.model.target import Wanted
from paceline.verifier.model.transformers_runner import TransformersRunner
from paceline.wire.settings import StartupError

DEADLINE_S = 60.0
OPENS = """
import asyncio, sys
from paceline.verifier import __main__
from paceline.verifier.model.engines import open_target
from paceline.verifier.model.target import Wanted

assert "transformers" not in sys.modules
opened = asyncio.run(open_target(Wanted(sys.argv[1], "cpu"), "native"))
assert opened.target.tokenizer.tokenize("to be")
print(*(name for name in ("transformers.modeling_utils", "accelerate", "gguf", "torch._dynamo") if name in sys.modules))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    return {family: str(save_target(tmp_path_factory.mktemp(family), family)) for family in ("llama", "gemma2")}


def runner_of(folder: str, engine: str, dtype: str = "auto") -> type:
    return type(asyncio.run(open_target(Wanted(folder, "cpu", dtype), engine)).runner)


def test_auto_takes_the_native_decoder_where_it_suits_and_transformers_where_not(folders):
    assert runner_of(folders["llama"], AUTO) is NativeRunner
    assert runner_of(folders["gemma2"], AUTO) is TransformersRunner
    assert runner_of(folders["llama"], AUTO, "float16") is TransformersRunner
    assert runner_of(folders["llama"], "transformers") is TransformersRunner


def test_without_a_compiler_auto_takes_transformers(folders, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert runner_of(folders["llama"], AUTO) is TransformersRunner
    with pytest.raises(StartupError, match="--engine native: there is no C"):
        runner_of(folders["llama"], "native")


def test_native_for_a_model_that_does_not_suit_is_refused(folders):
    with pytest.raises(StartupError, match="--engine native: the model is of type gemma2"):
        runner_of(folders["gemma2"], "native")
    with pytest.raises(StartupError, match="--engine native: it computes with float32 and bfloat16"):
        runner_of(folders["llama"], "native", "float16")


def test_the_lean_decoder_is_for_who_asks_for_it_and_for_a_gpu(folders, monkeypatch):
    assert AUTO_ENGINES["cuda"][0] == "lean"
    assert runner_of(folders["llama"], "lean") is LeanRunner
    with pytest.raises(StartupError, match="--engine lean: the model is of type gemma2"):
        runner_of(folders["gemma2"], "lean")
    monkeypatch.setitem(AUTO_ENGINES, "cpu", AUTO_ENGINES["cuda"])
    assert runner_of(folders["llama"], AUTO) is LeanRunner
    assert runner_of(folders["gemma2"], AUTO) is TransformersRunner


def test_a_process_that_serves_natively_never_imports_transformers_models(folders):
    command = [sys.executable, "-c", OPENS, folders["llama"]]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == []
