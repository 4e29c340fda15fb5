"""Texts for tiny heads, in which the next token can be told from the features and the token."""

from __future__ import annotations

import numpy as np
import torch

from paceline.trainer.models.feature_head import FeatureHeadShape
from paceline.trainer.training.borrowing import borrow
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


def borrowing_texts(shape: FeatureHeadShape, count: int, length: int, seed: int = 0) -> list[HeadText]:
    """Random texts of the vocabulary and four tokens beyond it, of which each text repeats some."""
    chance = np.random.default_rng(seed)
    embedding = torch.randn(shape.vocab_size + 4, shape.block.width, generator=torch.Generator().manual_seed(seed))
    texts = []
    for _ in range(count):
        target_ids = chance.integers(shape.vocab_size - 4, shape.vocab_size + 4, length)
        own = np.minimum(target_ids, shape.vocab_size)
        ids, borrowed = borrow(target_ids, own, shape.vocab_size, embedding)
        features = chance.standard_normal((length, shape.num_features * shape.target_hidden_size))
        texts.append(HeadText(torch.from_numpy(ids), 4, torch.from_numpy(features).bfloat16(), 3, borrowed))
    return texts


def tiny_teacher(shape: FeatureHeadShape, seed: int = 0) -> Teacher:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape.vocab_size, shape.target_hidden_size, generator=generator)
    return Teacher(weight, 1 + torch.rand(shape.target_hidden_size, generator=generator), 1e-5)
