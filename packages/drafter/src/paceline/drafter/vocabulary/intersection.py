"""Bridge `intersection`: only tokens that both vocabularies have, one for one.

Token-level intersection (TLI; Timor et al., *Accelerating LLM Inference with Lossless Speculative Decoding Algorithms
for Heterogeneous Vocabularies*): the draft's distribution is cut to the tokens whose bytes the target has a token for,
and normalised. Each draft token is one target token, so noise can be shared; but a text that the target would write
with other tokens than the draft is not drafted well.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from paceline.drafter.live_tree import LiveTree
from paceline.drafter.strategies.base import Candidates
from paceline.drafter.vocabulary.committed import follow, meant
from paceline.drafter.vocabulary.refusals import mismatch
from paceline.drafter.vocabulary.retokenizer import Retokenizer
from paceline.drafter.vocabulary.spelling import Spelled, spell_tree
from paceline.wire.vocabulary.base import Vocabulary


def direct_map(target: Vocabulary, draft: Vocabulary) -> npt.NDArray[np.int64]:
    """The target's token with the same bytes, or the special one with the same name, for each draft token; else -1."""
    found = np.full(draft.size, -1, np.int64)
    for token in range(draft.size):
        data = draft.bytes_of(token)
        name = draft.special(token) if data is None else None
        same = target.token_of(data) if data is not None else target.special_id(name) if name is not None else None
        if same is not None:
            found[token] = same
    return found


class Intersection:
    """For vocabularies that share tokens."""

    def __init__(self, target: Vocabulary, draft: Vocabulary) -> None:
        self.target, self.draft = target, draft
        self.noise_ids = direct_map(target, draft)
        self.allowed = self.noise_ids >= 0
        if not self.allowed.any():
            raise mismatch("intersection", "they have no token in common")
        self._direct: list[int] = self.noise_ids.tolist()

    def begin(self, tokens: Sequence[int]) -> IntersectionBridge:
        return IntersectionBridge(self, tokens)

    def spell(self, held: bytes, tokens: Sequence[int]) -> Spelled:
        """Up to the first token that the target hasn't got."""
        tokens = meant(self.draft, tokens)
        start, found = begin_with(held, self.target, self.draft, tokens)
        for token in tokens[start:] if start >= 0 else ():
            if self._direct[token] < 0:
                break
            found.append(self._direct[token])
        return Spelled(found, len(found))


def begin_with(held: bytes, target: Vocabulary, draft: Vocabulary, tokens: Sequence[int]) -> tuple[int, list[int]]:
    """Where a path goes on after the bytes that are committed of its first character, and the target token up to there.

    Returns the index of the draft token behind, -1 if the path doesn't begin with those bytes or the rest of the token
    that they end in is no token of the target.
    """
    index, data = 0, b""
    while len(data) < len(held):
        meaning = draft.bytes_of(tokens[index]) if index < len(tokens) else None
        if meaning is None:
            return -1, []
        data += meaning
        index += 1
    if not data.startswith(held):
        return -1, []
    if len(data) == len(held):
        return index, []
    rest = target.token_of(data[len(held) :])
    return (-1, []) if rest is None else (index, [rest])


class IntersectionBridge:
    """One session."""

    def __init__(self, kind: Intersection, tokens: Sequence[int]) -> None:
        self._kind = kind
        self._text = Retokenizer(kind.draft)
        self.context: Sequence[int] = self._text.tokens
        self.allowed: npt.NDArray[np.bool_] | None = kind.allowed
        self.noise_ids: npt.NDArray[np.int64] | None = kind.noise_ids
        self.observe(tokens)

    def observe(self, tokens: Sequence[int]) -> None:
        follow(self._text, self._kind.target, self._kind.draft, tokens)

    def translate(self, tree: LiveTree, selected: Sequence[int]) -> Candidates:
        return spell_tree(tree, selected, lambda tokens: self._kind.spell(self._text.held, tokens))
