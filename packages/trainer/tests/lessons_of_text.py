"""Lessons made of a text, as a target that wrote it would have had them made."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paceline.trainer.online.lessons import Lesson
from paceline.wire.vocabulary.base import Vocabulary

TOP_K = 4


def lessons_of(target: Vocabulary, texts: Sequence[str], seed: int = 0, context: int = 4) -> list[Lesson]:
    """One lesson of each text: its first tokens are the context, and of each of the rest the target was fairly sure."""
    random = np.random.default_rng(seed)
    return [_lesson(target.encode(text), context, target.size, random) for text in texts]


def _lesson(ids: list[int], context: int, size: int, random: np.random.Generator) -> Lesson:
    tokens = ids[context:]
    others = np.stack([random.choice(size - 1, TOP_K - 1, replace=False) for _ in tokens])
    others += others >= np.array(tokens)[:, None]  # none is the token itself
    top_ids = np.concatenate((np.array(tokens)[:, None], others), axis=1)
    log_probs = np.log(np.array([0.9, *[0.05 / (TOP_K - 1)] * (TOP_K - 1)], np.float32))
    return Lesson(
        lesson_id=random.bytes(16),
        context=tuple(ids[:context]),
        tokens=tuple(tokens),
        accepted=random.random(len(tokens)) < 0.5,
        top_ids=top_ids,
        top_log_probs=np.tile(log_probs, (len(tokens), 1)),
    )


def sums(count: int, seed: int = 0) -> list[str]:
    """Texts that a small model can learn a little of in a few steps."""
    random = np.random.default_rng(seed)
    return [f"There are {a} apples and {b} apples in the basket." for a, b in random.integers(1, 20, (count, 2))]
