"""The weights of a Llama-like decoder, and what is computed with them.

What computes with them (a kernel on the CPU, `lean` on a GPU) knows nothing of transformers; `extract` reads them out
of a transformers model.

One layer, for rows x [n, hidden], with norm(x) = x / sqrt(mean(x²) + rms_eps) · weight:

    q, k, v = split(qkv · norm_input(x) + qkv_bias), each by heads; q = norm_q(q), k = norm_k(k) over head_dim
    q, k    = rope(q), rope(k)
    x      += o · attention(q, k, v) + o_bias          scores (q · k) attention_scale; head h reads key head h // group
    gate, up = split(gate_up · norm_post(x) + gate_up_bias)
    x      += down · (silu(gate) · up) + down_bias

then logits = head · norm_final(x) + head_bias. `rope(x) = x cos + rotate_half(x) sin`, where rotate_half maps the
halves (a, b) of a head to (-b, a), and cos and sin are those of position · inv_freq, times rope_scale, computed in
float32 and the same for both halves. With a sliding window w, a row at position p sees p - w < position <= p.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """The numbers of a decoder.

    Attributes:
        num_heads, num_kv_heads: of queries, and of keys and values; the first is a multiple of the second.
        rms_eps: of all its norms.
        activation: of the gate; "silu".
        attention_scale: factor of the scores.
        rope_scale: factor of cos and sin; 1.0 but for yarn.
        sliding_windows: for each layer how many positions a row sees, itself included, or None for all.
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    rms_eps: float
    activation: str
    attention_scale: float
    rope_scale: float
    sliding_windows: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer. All tensors are contiguous and of the model's dtype.

    Attributes:
        input_norm: [hidden].
        qkv: [(num_heads + 2 num_kv_heads) head_dim, hidden]; rows of q, then k, then v, head by head.
        qkv_bias: [rows of qkv] or None.
        q_norm, k_norm: [head_dim] or None.
        o: [hidden, num_heads head_dim].
        o_bias: [hidden] or None.
        post_norm: [hidden], before the gated part.
        gate_up: [2 intermediate, hidden]; rows of the gate, then of up.
        gate_up_bias: [2 intermediate] or None.
        down: [hidden, intermediate].
        down_bias: [hidden] or None.
    """

    input_norm: torch.Tensor
    qkv: torch.Tensor
    qkv_bias: torch.Tensor | None
    q_norm: torch.Tensor | None
    k_norm: torch.Tensor | None
    o: torch.Tensor
    o_bias: torch.Tensor | None
    post_norm: torch.Tensor
    gate_up: torch.Tensor
    gate_up_bias: torch.Tensor | None
    down: torch.Tensor
    down_bias: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class DecoderWeights:
    """A whole decoder, on one device.

    Attributes:
        inv_freq: [head_dim / 2] float32, radians a position.
        embedding: [vocab, hidden].
        final_norm: [hidden].
        head: [vocab, hidden]; the same tensor as `embedding` if they are tied.
        head_bias: [vocab] or None.
    """

    config: DecoderConfig
    inv_freq: torch.Tensor
    embedding: torch.Tensor
    layers: tuple[LayerWeights, ...]
    final_norm: torch.Tensor
    head: torch.Tensor
    head_bias: torch.Tensor | None
