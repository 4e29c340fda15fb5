"""Which models can be shared out, and on what; that it works, `test_parallel` shows with processes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tiny_decoders import make_decoder
from tiny_models import make_tokenizer
from transformers import GPT2Config

from paceline.verifier.model.engines import open_target
from paceline.verifier.model.load import find_target, load_target
from paceline.verifier.model.ranks import Place
from paceline.verifier.model.target import Wanted, resolve_device
from paceline.wire.settings import StartupError


def test_a_model_that_can_not_be_shared_out_is_refused(tmp_path):
    def why_not(folder: Path, size: int) -> str:
        make_tokenizer().save_pretrained(folder)
        wanted = Wanted(str(folder), "cpu", "float32", place=Place(0, size, 0))
        found = find_target(wanted)
        with pytest.raises(StartupError) as caught:
            load_target(wanted, found)
        return str(caught.value)

    make_decoder("llama 9 of 3").save_pretrained(tmp_path / "odd")
    assert "its 9 attention heads can't be shared out evenly among 2 processes" in why_not(tmp_path / "odd", 2)
    assert "its 3 key-value heads can't be shared out evenly among 9" in why_not(tmp_path / "odd", 9)
    GPT2Config(n_layer=1).save_pretrained(tmp_path / "gpt2")
    assert "transformers has no plan for sharing GPT2 out among 2" in why_not(tmp_path / "gpt2", 2)


def test_each_of_several_processes_takes_its_own_device():
    with pytest.raises(StartupError, match="each of 2 processes takes its own GPU; use --device cuda"):
        resolve_device("cpu:0", Place(0, 2, 0))


@pytest.mark.parametrize("engine", ["native", "lean"])
def test_our_own_engines_take_no_model_that_is_shared_out(engine, tmp_path):
    wanted = Wanted(str(tmp_path), "cpu", "float32", place=Place(0, 2, 0))
    with pytest.raises(StartupError, match=f"--engine {engine}: it runs in one process, .* shared out among 2"):
        asyncio.run(open_target(wanted, engine))
