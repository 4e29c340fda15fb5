"""A tiny random model with a real tokenizer, as a folder: loads in a second, repeats itself enough to be drafted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEXT = [
    "the quick brown fox jumps over the lazy dog and runs away from the farm",
    "once upon a time there was a small village by the river with an old bridge",
    "numbers 0 1 2 3 4 5 6 7 8 9, punctuation: a; b. c? d! (e) [f]",
]
CHAT_TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant:"
CONTEXT_LENGTH = 1024
EAGERNESS = 2.0  # of a favourite: where it is likelier than others, it is so by far


def make_tiny_target(folder: Path, seed: int = 0, favourites: Sequence[str] = ()) -> Path:
    """Writes the model into `folder` and returns it; the same seed gives the same weights.

    Args:
        favourites: texts that are tokens of its own, and that it says more often than others.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=alphabet, special_tokens=["<eos>"], show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")
    fast.chat_template = CHAT_TEMPLATE
    fast.add_tokens(list(favourites))
    fast.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_LENGTH,
        eos_token_id=fast.eos_token_id,
        initializer_range=0.2,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight[len(fast) - len(favourites) :] *= EAGERNESS
    model.save_pretrained(folder)
    return folder
