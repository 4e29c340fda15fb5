"""Tiny random target models with a real tokenizer, and random step plans over known tokens."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from paceline.verifier.model.batch import SessionPlan
from paceline.verifier.model.blocks import BLOCK_TOKENS, KVSlot
from paceline.verifier.model.extract import extract
from paceline.verifier.model.lean_runner import LeanRunner
from paceline.verifier.model.lean_step import StepShape
from paceline.verifier.model.linear import pack_linears
from paceline.verifier.model.native_runner import NativeRunner
from paceline.verifier.model.runner import Runner
from paceline.verifier.model.transformers_runner import TransformersRunner
from paceline.verifier.native.build import load_library
from paceline.verifier.sampling import Sampler, Sampling

torch.set_num_threads(1)  # the models are too small to be worth a second one

VOCAB = 320
CONTEXT = 512
WINDOW = 24
BOS, EOS = 0, 1
GREEDY = Sampler(Sampling())
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=NEEDS_GPU)]
LEAN_SHAPE = StepShape(rows=64, sessions=3, session_rows=21, wanted=64)

_SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.3,  # wide, so that attention is sharp and the logits depend on the context
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "pad_token_id": EOS,
}
FAMILIES: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "llama": (LlamaConfig, {}),
    "qwen3": (Qwen3Config, {"num_key_value_heads": 1}),
    "mistral": (MistralConfig, {"sliding_window": WINDOW}),
    "gemma2": (
        Gemma2Config,
        {"sliding_window": WINDOW, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 5.0, "head_dim": 8},
    ),
}

_TEXTS = (
    "the quick brown fox jumps over the lazy dog and the dog sleeps on",
    "to be or not to be, that is the question; whether it is nobler in the mind to suffer",
    "def fibonacci(n): return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)",
    "Grüße aus Köln: ein schöner Tag für Füchse",
)
_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] not in ['user', 'assistant', 'system'] %}{{ raise_exception('unknown role') }}{% endif %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_tokenizer(chat_template: str | None = _TEMPLATE) -> PreTrainedTokenizerFast:
    """Byte-level BPE with some merges; every byte has a token, so an emoji takes up to four."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=["<|bos|>", "<|eos|>", "<|user|>", "<|assistant|>", "<|system|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_TEXTS, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<|bos|>", eos_token="<|eos|>")
    tokenizer.chat_template = chat_template
    return tokenizer


def make_model(family: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    config_class, changes = FAMILIES[family]
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config_class(**{**_SHAPE, **changes}), dtype=dtype)
    return model.eval().requires_grad_(False)


def make_runner(
    family: str,
    engine: str = "transformers",
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    num_blocks: int = 4000,
) -> Runner:
    """As the verifier would make it; but a lean one of a small shape, so that short texts cross many of its edges."""
    model: Any = make_model(family, dtype=dtype)
    model.to(device)
    runner: Runner
    if engine == "lean":
        runner = LeanRunner(extract(model), shape=LEAN_SHAPE, segment_tokens=BLOCK_TOKENS)
    elif engine in ("native", "native_fma"):
        tiles = engine == "native"
        runner = NativeRunner(load_library(), extract(model), torch.get_num_threads(), tiles=tiles)
    else:
        if device == "cpu":
            pack_linears(model)
        runner = TransformersRunner(model)
    runner.allocate(num_blocks, 2 * CONTEXT)
    return runner


def save_target(folder: Path, family: str = "llama", seed: int = 0) -> Path:
    """A folder that `load_target` loads."""
    make_model(family, seed).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def random_tokens(count: int, seed: int) -> list[int]:
    return random.Random(seed).choices(range(5, VOCAB), k=count)


@torch.inference_mode()
def plain_logits(runner: Runner, tokens: list[int]) -> torch.Tensor:
    """[len(tokens), vocab]: decoded one token a step, as without speculation."""
    slot = runner.new_slot(len(tokens))
    rows: list[torch.Tensor] = []
    for token in tokens:
        rows.append(runner.forward((SessionPlan(slot, (token,), True, (), (), GREEDY),))[0].clone())
        runner.commit(slot, 1, ())
    return torch.stack(rows)


def fill(runner: Runner, tokens: list[int]) -> KVSlot:
    """A slot that holds these tokens, with room for the rest of the context."""
    slot = runner.new_slot(CONTEXT)
    chunk = min(100, runner.max_session_rows)
    for start in range(0, len(tokens), chunk):
        part = tuple(tokens[start : start + chunk])
        runner.forward((SessionPlan(slot, part, False, (), (), GREEDY),))
        runner.commit(slot, len(part), ())
    return slot


def random_tree(path: list[int], num_junk: int, rng: random.Random) -> tuple[list[int], list[int], list[int]]:
    """tokens, parents, and where the nodes of `path` are: one branch of a tree whose other nodes are junk."""
    tokens: list[int] = []
    parents: list[int] = []
    on_path: list[int] = []
    kinds = ["path"] * len(path) + ["junk"] * num_junk
    rng.shuffle(kinds)
    for kind in kinds:
        if kind == "path":
            tokens.append(path[len(on_path)])
            parents.append(on_path[-1] if on_path else -1)
            on_path.append(len(tokens) - 1)
        else:
            tokens.append(rng.randrange(5, VOCAB))
            parents.append(rng.randrange(-1, len(parents)))
    return tokens, parents, on_path
