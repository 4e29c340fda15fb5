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


@dataclass(frozen=True, slots=True)
class TopK:
    """What is to know of rows of logits for drafting; a hundredth of their size.

    Attributes:
        tokens: the likeliest of each, likeliest first, ties by id [n, k].
        logits: of these [n, k]; not finite where there are fewer, or none is a number.
        log_totals: logarithm of the sum of exp(scale * (logit - greatest)) over each row [n].
        entropies: of softmax(scale * logits), in nats [n].
    """

    tokens: npt.NDArray[np.int64]
    logits: Logits
    log_totals: npt.NDArray[np.float64]
    entropies: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.tokens)


Scores = Logits | TopK


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
        top_k: if it isn't 0, `TopK` of so many tokens will do instead of logits: of models that know how.
        scale: of logits, for that.
    """

    cache: KVCache
    tokens: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    visible: npt.NDArray[np.bool_]
    wanted: tuple[int, ...]
    features: Floats | None = None
    above: npt.NDArray[np.int64] | None = None
    borrowed: Floats | None = None
    top_k: int = 0
    scale: float = 1.0

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

    def score(self, batch: Sequence[Rows]) -> Sequence[Scores]:
        """One forward pass for several sessions; logits [len(wanted), vocab_size] for each of the batch, or what
        stands for them where its rows say that this will do."""


def logits_of(model: LanguageModel, batch: Sequence[Rows]) -> list[Logits]:
    """`model.score` of rows that ask for logits."""
    scores = model.score(batch)
    assert all(isinstance(each, np.ndarray) for each in scores), "who asks for no top_k has logits"
    return list(scores)  # type: ignore[arg-type]


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
