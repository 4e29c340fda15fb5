"""Feature heads and texts small enough to compute in no time."""

from __future__ import annotations

from dataclasses import replace

import torch

from paceline.trainer.models.block import BlockShape
from paceline.trainer.models.feature_head import FeatureHead, FeatureHeadShape
from paceline.trainer.training.unroll import Texts

SHAPE = FeatureHeadShape(
    vocab_size=20,
    target_hidden_size=12,
    num_features=2,
    block=BlockShape(width=24, num_heads=6, num_kv_heads=3, head_dim=4, intermediate=32),
)


BORROWING = replace(SHAPE, target_hidden_size=24)  # as wide as its target, so that embeddings suit


def tiny_head(seed: int, shape: FeatureHeadShape = SHAPE) -> FeatureHead:
    """With weights large enough for attention and gates to matter."""
    head = FeatureHead(shape)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in head.parameters():
            spread = 0.5 / parameter.shape[-1] ** 0.5 if parameter.dim() > 1 else 0.1
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread * 3 + (parameter.dim() == 1))
    return head


def random_texts(head: FeatureHead, num_texts: int, length: int, num_starts: int, seed: int) -> Texts:
    """Texts of random tokens and features, that begin at position 3, with drafts at random rows."""
    generator = torch.Generator().manual_seed(seed)
    shape = head.shape
    return Texts(
        input_ids=torch.randint(shape.vocab_size + 1, (num_texts, length), generator=generator),
        position_ids=torch.arange(3, 3 + length).expand(num_texts, length),
        features=torch.randn(num_texts, length, shape.num_features * shape.target_hidden_size, generator=generator).to(
            head.norm.weight.dtype
        ),
        starts=torch.stack([torch.randperm(length, generator=generator)[:num_starts] for _ in range(num_texts)]),
    )
