"""Models that draft for the tiny target of these tests: itself, itself with other ids, and with other tokens."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from tiny_target import TEXT
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


def relabelled(target: Path, folder: Path, seed: int = 1) -> Path:
    """The target with its token ids in another order: another vocabulary that can say the same, token by token."""
    document = json.loads((target / "tokenizer.json").read_text())
    vocabulary: dict[str, int] = document["model"]["vocab"]
    ids = list(range(len(vocabulary)))
    new_ids = ids.copy()
    random.Random(seed).shuffle(new_ids)
    document["model"]["vocab"] = {token: new_ids[old] for token, old in vocabulary.items()}
    for token in document["added_tokens"]:
        token["id"] = new_ids[token["id"]]
    tokenizer = Tokenizer.from_str(json.dumps(document))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(target)
    old_of_new = torch.tensor(sorted(ids, key=lambda old: new_ids[old]))
    with torch.no_grad():
        for rows in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
            rows.copy_(rows[old_of_new].clone())
    model.config.eos_token_id = new_ids[model.config.eos_token_id]
    model.generation_config.eos_token_id = model.config.eos_token_id
    model.save_pretrained(folder)
    return folder


def foreign(folder: Path, seed: int = 2) -> Path:
    """A small random model whose tokens are cut elsewhere: fewer merges, learned from other text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>", "</s>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator([line[::-1] for line in TEXT], trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
