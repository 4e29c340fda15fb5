"""What a language model for drafting is. It computes and knows nothing of drafts, trees, targets or sessions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]


class KVCache(Protocol):
    """Keys and values of the rows that one session has run, in the order in which they were run."""

    def __len__(self) -> int: ...

    def keep(self, rows: Sequence[int]) -> None:
        """Only these rows stay, in this order. `range(n)` cuts the end off and is cheap."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Tokens of one session to run on top of what its cache holds; the cache holds them afterwards.

    Attributes:
        cache: of the session.
        tokens: ids in the model's vocabulary [n].
        positions: of each, from 0 [n].
        visible: which cached and new rows each row sees, itself included: [n, len(cache) + n] of bool.
        wanted: indices of rows whose logits are wanted.
    """

    cache: KVCache
    tokens: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    visible: npt.NDArray[np.bool_]
    wanted: tuple[int, ...]


class LanguageModel(Protocol):
    """A causal language model with a cache. Not thread-safe: one thread at a time."""

    vocab_size: int
    """Rows of its logits; may be more than its tokenizer has tokens."""
    max_length: int
    """Positions it was made for."""

    def new_cache(self) -> KVCache: ...

    def score(self, batch: Sequence[Rows]) -> list[Logits]:
        """One forward pass for several sessions; logits [len(wanted), vocab_size] for each of the batch."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model with what belongs to it. tokenizer_json is the content of its `tokenizer.json`."""

    name: str
    model: LanguageModel
    tokenizer_json: str
