"""Bridge `cut`: the drafter's tokens are some of the target's, by id.

A model that need not be able to say everything has a smaller head, and most of a small model is its head: 8,192 of
49,152 tokens were 98 % of what SmolLM2 says (FR-Spec, Zhao et al. 2025; VocabTrim, Goel et al. 2025). Tokens that were
cut are read as one, "any other", and never proposed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paceline.drafter.live_tree import LiveTree
from paceline.drafter.strategies.base import Candidates
from paceline.drafter.vocabulary.identity import token_by_token
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.revision import unusable

MAX_VOCAB_SIZE = 1 << 21  # of a target


@dataclass(frozen=True, slots=True, eq=False)
class CutVocabulary:
    """What a drafter's ids stand for.

    Attributes:
        ids: the target's id of each [size]; `size` itself is any other token.
        tokenizer_hash: of the target that it is cut from: ids mean nothing to another.
    """

    ids: npt.NDArray[np.int64]
    tokenizer_hash: str

    @property
    def size(self) -> int:
        return len(self.ids)

    @property
    def content_hash(self) -> str:
        """Equal exactly for the same ids of the same target."""
        return hashlib.sha256(self.ids.tobytes() + self.tokenizer_hash.encode()).hexdigest()


def parse_cut(content: bytes, size: int, tokenizer_hash: str) -> CutVocabulary:
    """From vocabulary.bin. Raises UNUSABLE_REVISION unless it has `size` different ids that a target may have."""
    if len(content) != 4 * size:
        raise unusable("vocabulary.bin", f"{len(content)} bytes long", f"{4 * size}, four for each of model.json's")
    ids = np.frombuffer(content, "<u4").astype(np.int64)
    if ids.max() >= MAX_VOCAB_SIZE or len(np.unique(ids)) < size:
        raise unusable("vocabulary.bin", "with ids that are too large or there twice", "one id below 2^21 for each")
    return CutVocabulary(ids, tokenizer_hash)


class Cut:
    """For one target, whose vocabulary it was cut from.

    Args:
        draft: what was cut.
        tokenizer_hash, vocab_size: of the target.

    Raises:
        PacelineError: VOCABULARY_MISMATCH for another target.
    """

    def __init__(self, draft: CutVocabulary, tokenizer_hash: str, vocab_size: int) -> None:
        if draft.tokenizer_hash != tokenizer_hash:
            raise _other_target("tokenizer_hash", draft.tokenizer_hash[:16], f"{tokenizer_hash[:16]} of the target")
        if int(draft.ids.max()) >= vocab_size:
            raise _other_target("vocabulary.bin", int(draft.ids.max()), f"below the target's {vocab_size}")
        self.noise_ids = draft.ids
        self.target_ids: list[int] = draft.ids.tolist()
        self.draft_ids = np.full(vocab_size, draft.size, np.int64)
        self.draft_ids[draft.ids] = np.arange(draft.size)

    def begin(self, tokens: Sequence[int]) -> CutBridge:
        return CutBridge(self, tokens)


class CutBridge:
    """One session: a position of the draft's is a position of the target's."""

    def __init__(self, kind: Cut, tokens: Sequence[int]) -> None:
        self.kind = kind
        self._tokens: list[int] = []
        self.context: Sequence[int] = self._tokens
        self.allowed: npt.NDArray[np.bool_] | None = None
        self.noise_ids: npt.NDArray[np.int64] | None = kind.noise_ids
        self.observe(tokens)

    def observe(self, tokens: Sequence[int]) -> None:
        self._tokens.extend(self.kind.draft_ids[list(tokens)].tolist())

    def translate(self, tree: LiveTree, selected: Sequence[int]) -> Candidates:
        return token_by_token(tree, selected, self.kind.target_ids)


def _other_target(field: str, value: object, limit: str) -> PacelineError:
    message = (
        f"the vocabulary was cut from another target's: {field} is {value}, not {limit}; train one for this target"
    )
    return PacelineError(Reason.VOCABULARY_MISMATCH, message, field=field, value=value, limit=limit)
