"""A head on the target's hidden states: one decoder block that goes on where the target has just been.

As in EAGLE-3 (Li et al. 2025) features of several of the target's layers are fused into one hidden state, and in a
draft the head's own output takes the place of features that aren't known yet. Two things differ, since targets here are
small and share heads of keys and values: the token's embedding and the hidden state are mixed before the block (as in
DeepSeek-V3's multi-token prediction) and not inside its attention, where an embedding would have to pass through a few
narrow value heads; and the embedding is also the head's output matrix, cut to the tokens that the target really writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from paceline.trainer.models.block import Block, BlockShape, RMSNorm, Rope, attending, rope_of, scaled


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureHeadShape:
    """Sizes of a head.

    Attributes:
        vocab_size: tokens it knows; input id vocab_size is every other token.
        target_hidden_size: of each feature.
        num_features: layers of the target that are put side by side.
        block: of its one block; its width is that of the hidden state too.
    """

    vocab_size: int
    target_hidden_size: int
    num_features: int
    block: BlockShape


class FeatureHead(nn.Module):
    """The head as `paceline.wire.model_card` describes it; `training.unroll` trains it as it is used."""

    def __init__(self, shape: FeatureHeadShape) -> None:
        super().__init__()
        self.shape = shape
        width, epsilon = shape.block.width, shape.block.norm_epsilon
        self.embed_tokens = nn.Embedding(shape.vocab_size + 1, width)
        num_inputs = shape.num_features * shape.target_hidden_size
        self.feature_mean = nn.Parameter(torch.zeros(num_inputs), requires_grad=False)
        self.feature_scale = nn.Parameter(torch.ones(num_inputs), requires_grad=False)
        self.fuse_proj = nn.Linear(num_inputs, width, bias=False)
        self.embedding_norm = RMSNorm(width, epsilon)
        self.hidden_norm = RMSNorm(width, epsilon)
        self.mix_proj = nn.Linear(2 * width, width, bias=False)
        self.block = Block(shape.block)
        self.norm = RMSNorm(width, epsilon)

    def fuse(self, features: Tensor) -> Tensor:
        """Hidden states [..., width] of features [..., num_features * target_hidden_size]."""
        return cast(Tensor, self.fuse_proj((self.scaled(features) - self.feature_mean) * self.feature_scale))

    def scaled(self, features: Tensor) -> Tensor:
        """Features with each layer scaled on its own, since later layers are many times larger. In each, a few numbers
        that hardly vary are most of what is left: `feature_mean` and `feature_scale` are there to even that out."""
        layers = features.unflatten(-1, (self.shape.num_features, self.shape.target_hidden_size))
        return scaled(layers, self.shape.block.norm_epsilon).flatten(-2)

    def enter(self, input_ids: Tensor, hidden: Tensor, others: Tensor | None = None) -> Tensor:
        """What the block reads: tokens [...] beside the hidden states [..., width] of the rows before them.

        others: embeddings [..., width] of tokens whose ids are above vocab_size.
        """
        last = self.shape.vocab_size
        embedded = self.embed_tokens(input_ids.clamp(max=last))
        if others is not None:
            embedded = torch.where((input_ids > last)[..., None], others, embedded)
        return cast(Tensor, self.mix_proj(torch.cat((self.embedding_norm(embedded), self.hidden_norm(hidden)), dim=-1)))

    def normed(self, hidden: Tensor) -> Tensor:
        """What is multiplied by embeddings to have logits."""
        return cast(Tensor, self.norm(hidden))

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., vocab_size], of what comes after rows with these outputs [..., width]."""
        return nn.functional.linear(self.normed(hidden), self.embed_tokens.weight[: self.shape.vocab_size])

    def rope(self, position_ids: Tensor) -> Rope:
        return rope_of(position_ids, self.shape.block.head_dim, self.shape.block.rope_theta)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        visible: Tensor,
        hidden: Tensor,
        past_keys: Tensor,
        past_values: Tensor,
        others: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """New rows on top of cached ones; what goes in and comes out is said in `paceline.wire.model_card`.

        Returns:
            Logits [B, Q, vocab_size], new_hidden [B, Q, width], new keys and values [B, Q, num_kv_heads, head_dim].
        """
        attention = attending(past_keys, past_values, visible)
        new_hidden, keys, values = self.block(self.enter(input_ids, hidden, others), self.rope(position_ids), attention)
        return self.logits(new_hidden), new_hidden, keys, values
