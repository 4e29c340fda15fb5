"""A Llama-like decoder by its definition: one text, all positions at once, nothing stored. Slow and plain."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from paceline.verifier.model.decoder import DecoderConfig, DecoderWeights, LayerWeights


def dense_logits(weights: DecoderWeights, tokens: Sequence[int]) -> torch.Tensor:
    """Logits [tokens, vocab] in float32."""
    config = weights.config
    positions = torch.arange(len(tokens))
    angles = (positions[:, None].float() * weights.inv_freq).repeat(1, 2)
    turn = (angles.cos() * config.rope_scale, angles.sin() * config.rope_scale)
    distance = positions[:, None] - positions[None, :]
    x = weights.embedding[torch.tensor(list(tokens))].float()
    for layer, window in zip(weights.layers, config.sliding_windows, strict=True):
        hidden = (distance < 0) | (distance >= (len(tokens) if window is None else window))
        x = x + _attention(config, layer, _norm(x, layer.input_norm, config), turn, hidden)
        x = x + _mlp(config, layer, _norm(x, layer.post_norm, config))
    return _linear(_norm(x, weights.final_norm, config), weights.head, weights.head_bias)


def _attention(
    config: DecoderConfig,
    layer: LayerWeights,
    x: torch.Tensor,
    turn: tuple[torch.Tensor, torch.Tensor],
    hidden: torch.Tensor,
) -> torch.Tensor:
    heads, kv_heads, dim = config.num_heads, config.num_kv_heads, config.head_dim
    qkv = _linear(x, layer.qkv, layer.qkv_bias).unflatten(-1, (-1, dim)).transpose(0, 1)
    q, k, v = qkv.split([heads, kv_heads, kv_heads])
    q = _rope(_norm(q, layer.q_norm, config), turn)
    k = _rope(_norm(k, layer.k_norm, config), turn)
    k, v = (stored.repeat_interleave(heads // kv_heads, dim=0) for stored in (k, v))
    scores = (q @ k.transpose(1, 2) * config.attention_scale).masked_fill(hidden, float("-inf"))
    return _linear((scores.softmax(dim=-1) @ v).transpose(0, 1).flatten(1), layer.o, layer.o_bias)


def _mlp(config: DecoderConfig, layer: LayerWeights, x: torch.Tensor) -> torch.Tensor:
    assert config.activation == "silu"
    gate, up = _linear(x, layer.gate_up, layer.gate_up_bias).chunk(2, dim=-1)
    return _linear(gate * torch.sigmoid(gate) * up, layer.down, layer.down_bias)


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    product = x @ weight.float().T
    return product if bias is None else product + bias.float()


def _norm(x: torch.Tensor, weight: torch.Tensor | None, config: DecoderConfig) -> torch.Tensor:
    if weight is None:
        return x
    return x / torch.sqrt(x.square().mean(dim=-1, keepdim=True) + config.rms_eps) * weight.float()


def _rope(x: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    cos, sin = turn
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin
