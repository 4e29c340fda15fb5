"""What a language model for drafting is. It computes and knows nothing of drafts, trees, targets or sessions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from paceline.drafter.features import FeatureNeeds, Floats
from paceline.drafter.vocabulary.cut import CutVocabulary

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
        features: for a feature head, the target's state at the position before each row [n, width of features]; or
        above: the cached row before each, whose own hidden state stands in for what nobody knows yet [n].
        borrowed: for a head that borrows, embeddings of tokens vocab_size + 1, … [K, width]; logits go on with
            -inf for "any other token" and one for each of these.
    """

    cache: KVCache
    tokens: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    visible: npt.NDArray[np.bool_]
    wanted: tuple[int, ...]
    features: Floats | None = None
    above: npt.NDArray[np.int64] | None = None
    borrowed: Floats | None = None

    @property
    def num_borrowed(self) -> int:
        return 0 if self.borrowed is None else len(self.borrowed)


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
    """A model with what belongs to it.

    Attributes:
        tokenizer_json: the content of its `tokenizer.json`; empty if its vocabulary is cut from the target's.
        cut: what its tokens are of the target's, if so.
        needs: of the target's hidden states; None for a model that goes by tokens alone.
    """

    name: str
    model: LanguageModel
    tokenizer_json: str
    cut: CutVocabulary | None = None
    needs: FeatureNeeds | None = None
