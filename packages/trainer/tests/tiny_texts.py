"""Texts for tiny heads, in which the next token can be told from the features and the token."""

from __future__ import annotations

import torch

from paceline.trainer.models.feature_head import FeatureHeadShape
from paceline.trainer.training.head_task import HeadText, Teacher


def cyclic_texts(shape: FeatureHeadShape, count: int, length: int, answer: int = 3, seed: int = 0) -> list[HeadText]:
    """Texts that step through the vocabulary by a stride of their own, 1 to 3, which features tell beside the token."""
    generator = torch.Generator().manual_seed(seed)
    tables = torch.randn(
        2, shape.vocab_size + 1, shape.num_features * shape.target_hidden_size, generator=torch.Generator()
    )
    texts = []
    for index in range(count):
        first, stride = torch.randint(shape.vocab_size, (1,), generator=generator), 1 + index % 3
        ids = (first + stride * torch.arange(length)) % shape.vocab_size
        features = tables[0, ids] + 2 * tables[1, torch.full_like(ids, stride)]
        texts.append(HeadText(ids, 4, features.bfloat16(), answer))
    return texts


def tiny_teacher(shape: FeatureHeadShape, seed: int = 0) -> Teacher:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape.vocab_size, shape.target_hidden_size, generator=generator)
    return Teacher(weight, 1 + torch.rand(shape.target_hidden_size, generator=generator), 1e-5)
