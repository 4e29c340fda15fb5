"""Tiny random models of the families whose weights are read out, in all the kinds that differ."""

from __future__ import annotations

from typing import Any

import torch
from tiny_models import CONTEXT, VOCAB
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, PreTrainedModel, Qwen2Config, Qwen3Config

WINDOW = 20

_SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.25,  # wide, so that attention is sharp and the logits depend on the context
    "rms_norm_eps": 1e-5,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
_YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}
_SLIDING = {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}

KINDS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "llama": (LlamaConfig, {}),
    "llama tied": (LlamaConfig, {"tie_word_embeddings": True, "num_key_value_heads": 1}),
    "llama llama3": (LlamaConfig, {"rope_parameters": _LLAMA3}),
    "llama linear": (LlamaConfig, {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}),
    "llama yarn": (LlamaConfig, {"rope_parameters": _YARN}),
    "llama biases": (LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
    "llama wide heads": (LlamaConfig, {"head_dim": 32, "num_key_value_heads": 2}),
    "llama 9 of 3": (LlamaConfig, {"hidden_size": 72, "num_attention_heads": 9, "num_key_value_heads": 3}),
    "mistral": (MistralConfig, {"sliding_window": WINDOW, "num_key_value_heads": 1}),
    "mistral unlimited": (MistralConfig, {"sliding_window": None, "head_dim": 16}),
    "qwen2": (Qwen2Config, {"num_key_value_heads": 2}),
    "qwen2 sliding": (Qwen2Config, {**_SLIDING, "tie_word_embeddings": True}),
    "qwen3": (Qwen3Config, {"head_dim": 16, "num_key_value_heads": 1}),
    "qwen3 sliding": (Qwen3Config, {**_SLIDING, "head_dim": 32, "attention_bias": True}),
}


def make_decoder(kind: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A model of that kind, eager, in float32, with norms and biases that are not their defaults of 1 and 0."""
    config_class, own = KINDS[kind]
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(
        config_class(**{**_SHAPE, **own, **changes}), dtype=torch.float32, attn_implementation="eager"
    )
    for name, parameter in model.named_parameters():
        if "norm" in name or name.endswith(".bias"):
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model.eval().requires_grad_(False)


@torch.inference_mode()
def own_logits(model: PreTrainedModel, tokens: list[int]) -> torch.Tensor:
    """Logits [tokens, vocab] by transformers."""
    logits: torch.Tensor = model(torch.tensor([tokens]), use_cache=False).logits[0]
    return logits
