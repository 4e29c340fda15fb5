"""A small Llama-like decoder: a drafter that reads tokens and needs nothing of the target.

Parameters have the names that Llama's have in transformers, without the "model." in front.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from paceline.trainer.models.block import Attend, Block, BlockShape, RMSNorm, attending, rope_of

SPREAD = 0.02  # of weights at the start

Past = Sequence[tuple[Tensor, Tensor]]  # keys and values [B, P, num_kv_heads, head_dim] of each layer


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderShape:
    """Sizes of a decoder.

    Attributes:
        vocab_size: of its logits.
        unknown: whether input id vocab_size stands for every token that has no logit (a cut vocabulary).
        width, num_heads, num_kv_heads, head_dim, intermediate, rope_theta, rms_eps: of each block, see `BlockShape`.
        max_length: positions it may be given.
        tied: whether the embedding is also the output matrix.
    """

    vocab_size: int
    width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate: int
    max_length: int = 2048
    rope_theta: float = 10_000.0
    rms_eps: float = 1e-5
    tied: bool = True
    unknown: bool = False

    @property
    def block(self) -> BlockShape:
        return BlockShape(
            width=self.width,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            intermediate=self.intermediate,
            rope_theta=self.rope_theta,
            norm_epsilon=self.rms_eps,
        )


class Decoder(nn.Module):
    """Tokens to hidden states. Logits are `hidden @ head_weight.T`, which is the caller's to do, in pieces if large.

    Args:
        shape: its sizes.
        seed: of its weights. The same seed gives the same weights whatever was drawn before.
    """

    def __init__(self, shape: DecoderShape, seed: int = 0) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab_size + shape.unknown, shape.width)
        self.layers = nn.ModuleList(Block(shape.block) for _ in range(shape.num_layers))
        self.norm = RMSNorm(shape.width, shape.rms_eps)
        if not shape.tied:
            self.lm_head = nn.Linear(shape.width, shape.vocab_size, bias=False)
        self._draw(seed)

    @property
    def head_weight(self) -> Tensor:
        """[vocab_size, width]."""
        return self.embed_tokens.weight[: self.shape.vocab_size] if self.shape.tied else self.lm_head.weight

    def forward(self, input_ids: Tensor, position_ids: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Whole texts, to train on.

        Args:
            input_ids: [B, T].
            position_ids: [B, T]; 0, 1, 2, … if not given.
            mask: bool [B, T, T], which tokens (last) each token sees, at least one; all before it and itself if not
                given, which is the fastest.

        Returns:
            Hidden states after the final norm, [B, T, width].
        """
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        attention = _seeing(mask)
        rope = rope_of(position_ids, self.shape.head_dim, self.shape.rope_theta)
        stream = self.embed_tokens(input_ids)
        for layer in self.layers:
            stream, _, _ = layer(stream, rope, attention)
        hidden: Tensor = self.norm(stream)
        return hidden

    def step(
        self, input_ids: Tensor, position_ids: Tensor, visible: Tensor, past: Past
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """New rows on top of cached ones, as in `paceline.wire.model_card`: to write text with.

        Args:
            input_ids, position_ids: [B, Q].
            visible: bool [B, Q, P + Q].
            past: keys and values [B, P, num_kv_heads, head_dim] of each layer.

        Returns:
            Hidden states after the final norm [B, Q, width]; keys and values [B, Q, num_kv_heads, head_dim].
        """
        rope = rope_of(position_ids, self.shape.head_dim, self.shape.rope_theta)
        stream = self.embed_tokens(input_ids)
        new = []
        for layer, (past_keys, past_values) in zip(self.layers, past, strict=True):
            stream, keys, values = layer(stream, rope, attending(past_keys, past_values, visible))
            new.append((keys, values))
        return self.norm(stream), new

    def empty_past(self, batch: int) -> list[tuple[Tensor, Tensor]]:
        """To begin texts with."""
        shape = (batch, 0, self.shape.num_kv_heads, self.shape.head_dim)
        weight = self.norm.weight
        return [(weight.new_zeros(shape), weight.new_zeros(shape)) for _ in self.layers]

    @torch.no_grad()
    def _draw(self, seed: int) -> None:
        """Normal; what is added to the stream is smaller the more layers add to it (GPT-2's rule)."""
        generator = torch.Generator(device="cpu").manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2 and not parameter.is_meta:
                adds = name.endswith(("o_proj.weight", "down_proj.weight"))
                spread = SPREAD / math.sqrt(2 * self.shape.num_layers) if adds else SPREAD
                drawn = torch.randn(parameter.shape, generator=generator, device="cpu")
                parameter.copy_(drawn * spread)


def _seeing(mask: Tensor | None) -> Attend:
    """torch's own attention, which keeps no weights for the way back."""

    def attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        sums = nn.functional.scaled_dot_product_attention(
            queries.transpose(1, 2),
            keys.transpose(1, 2),
            values.transpose(1, 2),
            attn_mask=None if mask is None else mask[:, None],
            is_causal=mask is None,
            enable_gqa=True,
        )
        return sums.transpose(1, 2)

    return attention
