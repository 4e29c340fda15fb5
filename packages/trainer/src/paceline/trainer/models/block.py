"""One decoder block as in Llama: what both a small language model and a feature head are made of.

Parameters have the names and shapes that Llama's have in transformers, so a block may start as a layer of the target.
Everything between the projections is in plain operations that every exporter and every runtime knows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

Rope = tuple[Tensor, Tensor]  # cosine and sine, each [B, Q, head_dim]
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries [B, Q, num_heads, head_dim] and the same rows' keys and values [B, Q, num_kv_heads, head_dim] to sums of
values [B, Q, num_heads, head_dim]. Whoever passes it knows the cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockShape:
    """Sizes of a block.

    Attributes:
        width: of the stream of hidden states.
        num_heads, num_kv_heads, head_dim: of attention; num_heads is a multiple of num_kv_heads, head_dim is even.
        intermediate: width of the gated MLP.
        rope_theta: base of the rotary embedding's periods.
        norm_epsilon: added to the mean square.
    """

    width: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate: int
    rope_theta: float = 10_000.0
    norm_epsilon: float = 1e-5


class RMSNorm(nn.Module):
    """Rows scaled to a root mean square of 1, times a learnt weight (Zhang & Sennrich 2019)."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, rows: Tensor) -> Tensor:
        return scaled(rows, self.epsilon) * self.weight


def scaled(rows: Tensor, epsilon: float) -> Tensor:
    """Rows with a root mean square of 1."""
    return rows * torch.rsqrt(rows.square().mean(-1, keepdim=True) + epsilon)


def rope_of(positions: Tensor, head_dim: int, theta: float) -> Rope:
    """Rotary embedding (Su et al. 2021) of positions [B, Q], in the halves that Llama rotates."""
    periods = theta ** (torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim)
    angles = positions[..., None].to(torch.float32) / periods
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotated(heads: Tensor, rope: Rope) -> Tensor:
    """Heads [B, Q, heads, head_dim] turned to their rows' positions."""
    cosine, sine = rope[0][:, :, None], rope[1][:, :, None]
    first, second = heads.chunk(2, dim=-1)
    return heads * cosine + torch.cat((-second, first), dim=-1) * sine


def attend(queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor) -> Tensor:
    """Attention in which each group of query heads shares a head of keys and values.

    Args:
        queries: [B, Q, num_heads, head_dim].
        keys, values: [B, K, num_kv_heads, head_dim].
        visible: bool [B, Q, K]; each row sees at least one key.

    Returns:
        [B, Q, num_heads, head_dim].
    """
    weights = torch.softmax(scores(queries, keys, visible), dim=-1)
    return weighted(weights, values)


def scores(queries: Tensor, keys: Tensor, visible: Tensor) -> Tensor:
    """[B, num_kv_heads, group, Q, K], -inf where not visible; arguments as of `attend`."""
    batch, rows, heads, dim = queries.shape
    groups = queries.reshape(batch, rows, keys.shape[2], heads // keys.shape[2], dim).permute(0, 2, 3, 1, 4)
    # A group's rows one below the other: keys would be copied for each of them otherwise.
    products = (groups.flatten(2, 3) * dim**-0.5) @ keys.permute(0, 2, 3, 1)
    return products.unflatten(2, (-1, rows)).masked_fill(~visible[:, None, None], float("-inf"))


def weighted(weights: Tensor, values: Tensor) -> Tensor:
    """Sums [B, Q, num_heads, head_dim] of values [B, K, num_kv_heads, head_dim] by weights shaped as `scores`."""
    batch, kv_heads, group, rows, _ = weights.shape
    sums = (weights.flatten(2, 3) @ values.permute(0, 2, 1, 3)).unflatten(2, (group, rows))
    dim = sums.shape[-1]
    return sums.permute(0, 3, 1, 2, 4).reshape(batch, rows, kv_heads * group, dim)


class Attention(nn.Module):
    """The projections of attention; what a row sees is its caller's business."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.shape = shape
        self.q_proj = nn.Linear(shape.width, shape.num_heads * shape.head_dim, bias=False)
        self.k_proj = nn.Linear(shape.width, shape.num_kv_heads * shape.head_dim, bias=False)
        self.v_proj = nn.Linear(shape.width, shape.num_kv_heads * shape.head_dim, bias=False)
        self.o_proj = nn.Linear(shape.num_heads * shape.head_dim, shape.width, bias=False)

    def queries(self, rows: Tensor, rope: Rope) -> Tensor:
        """[B, Q, num_heads, head_dim] of rows [B, Q, width]."""
        return rotated(self.q_proj(rows).unflatten(-1, (self.shape.num_heads, -1)), rope)

    def keys_values(self, rows: Tensor, rope: Rope) -> tuple[Tensor, Tensor]:
        """[B, Q, num_kv_heads, head_dim] each, of rows [B, Q, width]."""
        heads = (self.shape.num_kv_heads, -1)
        return rotated(self.k_proj(rows).unflatten(-1, heads), rope), self.v_proj(rows).unflatten(-1, heads)


class GatedMLP(nn.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer 2020)."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.width, shape.intermediate, bias=False)
        self.up_proj = nn.Linear(shape.width, shape.intermediate, bias=False)
        self.down_proj = nn.Linear(shape.intermediate, shape.width, bias=False)

    def forward(self, rows: Tensor) -> Tensor:
        return cast(Tensor, self.down_proj(nn.functional.silu(self.gate_proj(rows)) * self.up_proj(rows)))


class Block(nn.Module):
    """Attention and MLP, each on normed rows and added to the stream."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(shape.width, shape.norm_epsilon)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RMSNorm(shape.width, shape.norm_epsilon)
        self.mlp = GatedMLP(shape)

    def forward(self, stream: Tensor, rope: Rope, attention: Attend) -> tuple[Tensor, Tensor, Tensor]:
        """Rows [B, Q, width] after the block, and their keys and values [B, Q, num_kv_heads, head_dim]."""
        normed = self.input_layernorm(stream)
        queries = self.self_attn.queries(normed, rope)
        keys, values = self.self_attn.keys_values(normed, rope)
        return self.finished(stream, attention(queries, keys, values)), keys, values

    def keys_values(self, stream: Tensor, rope: Rope) -> tuple[Tensor, Tensor]:
        """Keys and values of rows that are only looked at."""
        return self.self_attn.keys_values(self.input_layernorm(stream), rope)

    def finished(self, stream: Tensor, attended: Tensor) -> Tensor:
        """What is left to do when attention has its sums [B, Q, num_heads, head_dim]."""
        stream = stream + self.self_attn.o_proj(attended.flatten(-2))
        return cast(Tensor, stream + self.mlp(self.post_attention_layernorm(stream)))


def attending(past_keys: Tensor, past_values: Tensor, visible: Tensor) -> Attend:
    """Attention of new rows to cached ones [B, P, num_kv_heads, head_dim] and to one another; visible is bool
    [B, Q, P + Q]."""

    def attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return attend(queries, torch.cat((past_keys, keys), 1), torch.cat((past_values, values), 1), visible)

    return attention
