"""Tiny random language models with a tokenizer, and rows that go through them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
)

from paceline.drafter.models.base import KVCache, LanguageModel, Logits, Rows

torch.set_num_threads(1)  # the models are too small to be worth a second one

VOCAB = 300
LENGTH = 128
WINDOW = 24

_SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": LENGTH,
    "initializer_range": 0.3,  # wide, so that attention is sharp and the logits depend on the context
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
CONFIGS: dict[str, Any] = {
    "llama": LlamaConfig(**_SHAPE),
    "qwen2": Qwen2Config(**_SHAPE),
    "gpt2": GPT2Config(
        vocab_size=VOCAB,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=LENGTH,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=1,
    ),
    "mistral": MistralConfig(**_SHAPE, sliding_window=WINDOW),
    "gemma2": Gemma2Config(
        **_SHAPE, sliding_window=WINDOW, head_dim=8, query_pre_attn_scalar=16, attn_logit_softcapping=5.0
    ),
}


def tokenizer_json() -> str:
    """Byte-level BPE without merges."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return str(tokenizer.to_str())


def make_model(config: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model.eval()


def save_model(folder: Path, config: Any) -> Path:
    """A folder that `load_torch` loads."""
    make_model(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer_json())
    return folder


@torch.inference_mode()
def plain_logits(folder: Path, tokens: list[int]) -> Logits:
    """What transformers says itself after the last of the tokens [vocab]."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    logits: Logits = model(torch.tensor([tokens]), use_cache=False).logits[0, -1].numpy()
    return logits


def random_tokens(count: int, seed: int) -> list[int]:
    return random.Random(seed).choices(range(VOCAB), k=count)


@dataclass(frozen=True)
class Tree:
    """Parents before children; -1 continues the context."""

    tokens: list[int]
    parents: list[int]

    def path(self, node: int) -> list[int]:
        """From the child of the root down to the node."""
        found: list[int] = []
        while node >= 0:
            found.append(node)
            node = self.parents[node]
        return found[::-1]


def random_tree(count: int, seed: int) -> Tree:
    chance = random.Random(seed)
    return Tree(random_tokens(count, seed), [chance.randrange(-1, node) for node in range(count)])


def chain_rows(cache: KVCache, tokens: list[int], wanted: tuple[int, ...] | None = None) -> Rows:
    """A text that goes on where the cache ends; the cache holds a plain text."""
    past, count = len(cache), len(tokens)
    visible = np.tri(count, past + count, past, dtype=bool)
    wanted = tuple(range(count)) if wanted is None else wanted
    return Rows(cache, np.array(tokens), np.arange(past, past + count), visible, wanted)


def tree_rows(cache: KVCache, tree: Tree) -> Rows:
    """The tree behind a cache that holds a plain text."""
    past, count = len(cache), len(tree.tokens)
    visible = np.zeros((count, past + count), bool)
    visible[:, :past] = True
    for node in range(count):
        visible[node, [past + above for above in tree.path(node)]] = True
    positions = np.array([past + len(tree.path(node)) - 1 for node in range(count)])
    return Rows(cache, np.array(tree.tokens), positions, visible, tuple(range(count)))


def filled(model: LanguageModel, tokens: list[int]) -> KVCache:
    cache = model.new_cache()
    model.score([chain_rows(cache, tokens, ())])
    return cache


def fresh(model: LanguageModel, tokens: list[int]) -> Logits:
    """After each of the tokens [len(tokens), vocab], by one pass over nothing but them."""
    return model.score([chain_rows(model.new_cache(), tokens)])[0]


def close(some: npt.ArrayLike, other: npt.ArrayLike, within: float = 1e-4) -> bool:
    return bool(np.allclose(some, other, rtol=within, atol=within))
