"""A tiny random target with a tokenizer and a chat template, and prompts for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from paceline.trainer.data.prompts import Message, Prompt
from paceline.trainer.data.rows import Answer, Tokens
from paceline.trainer.data.target import Target, load_target

torch.set_num_threads(1)  # the models are too small to be worth a second one

EOS = 0
LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
VOCAB = 2 + len(LETTERS)
HIDDEN = 32
LAYERS = 3
LENGTH = 256
ORIGIN = {"model": "tiny", "tokenizer_hash": "0" * 64, "vocab_size": VOCAB}
_TEMPLATE = "{% for message in messages %}<user>{{ message['content'] }}{% endfor %}"


SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": LENGTH,
    "initializer_range": 0.3,  # wide, so that attention is sharp and the logits depend on the context
    "bos_token_id": 1,
    "eos_token_id": EOS,
    "pad_token_id": EOS,
}


def save_target(folder: Path, config: Any = None) -> Path:
    """A folder that `load_target` loads."""
    torch.manual_seed(0)
    config = config or LlamaConfig(**SHAPE)
    model = AutoModelForCausalLM.from_config(config)
    model.model.norm.weight.data.uniform_(0.5, 2.0)  # so that before and after the final norm differ
    model.save_pretrained(folder)
    tokenizer = Tokenizer(
        models.BPE({"<eos>": EOS, "<user>": 1, **{letter: 2 + i for i, letter in enumerate(LETTERS)}}, [])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<eos>", additional_special_tokens=["<user>"], chat_template=_TEMPLATE
    )
    fast.save_pretrained(folder)
    return folder


def tiny_target(folder: Path, config: Any = None) -> Target:
    return load_target(str(save_target(folder, config)), "float32", 1)


def some_prompts(count: int) -> list[Prompt]:
    """Of many lengths."""
    return [Prompt(f"p{n}", f"s{n % 3}", (Message("user", f"{n} is " * (1 + n % 7)),)) for n in range(count)]


def write_prompts(path: Path, count: int) -> Path:
    lines = [
        json.dumps({"id": prompt.id, "source": prompt.source, "prompt": prompt.messages[0].content})
        for prompt in some_prompts(count)
    ]
    path.write_text("\n".join(lines))
    return path


def tokens(*ids: int) -> Tokens:
    return np.array(ids, np.int32)


def random_answers(count: int, seed: int = 0) -> list[Answer]:
    chance = np.random.default_rng(seed)

    def text(most: int) -> Tokens:
        return chance.integers(0, VOCAB, chance.integers(1, most + 1), dtype=np.int32)

    return [Answer(f"a{n}", "", text(40), text(20), "length") for n in range(count)]
