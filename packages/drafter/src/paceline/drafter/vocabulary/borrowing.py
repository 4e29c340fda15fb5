"""Tokens that a cut vocabulary lacks, borrowed from the text: names, numbers, words of other languages.

Most of what a cut vocabulary can't say has been in the text before. The verifier tells the target's layer 0 with its
other states, which is the embedding of each position's token; so a head learns what such tokens are while it reads, and
may propose them from then on. A token is borrowed when its first place has been told: ids above `size`, which is any
other token, are borrowed ones in the order in which they came.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from paceline.drafter.features import Floats
from paceline.drafter.live_tree import LiveTree
from paceline.drafter.strategies.base import Candidates
from paceline.drafter.vocabulary.cut import Cut
from paceline.drafter.vocabulary.identity import token_by_token

MAX_BORROWED = 512  # in a session: a row of logits grows by as many, and a session by 1 MB at 576 numbers
MIN_ROOM = 32


class BorrowingBridge:
    """One session, like `CutBridge`.

    Args:
        kind: to the target's vocabulary.
        tokens: the target's, of the text as it is.
        width: of an embedding.
    """

    def __init__(self, kind: Cut, tokens: Sequence[int], width: int) -> None:
        self._kind = kind
        self._size = len(kind.noise_ids)
        self._tokens: list[int] = []
        self._draft_tokens: list[int] = []
        self._slots: dict[int, int] = {}
        self._rows = np.empty((0, width), np.float32)
        self._target_ids = [*kind.target_ids, -1]
        self._told = 0  # positions before it have had their turn
        self.context: Sequence[int] = self._draft_tokens
        self.allowed: npt.NDArray[np.bool_] | None = None
        noise_ids = np.full(self._size + 1 + MAX_BORROWED, -1, np.int64)
        noise_ids[: self._size] = kind.noise_ids
        self.noise_ids: npt.NDArray[np.int64] | None = noise_ids
        self.observe(tokens)

    @property
    def embeddings(self) -> Floats:
        """Of what is borrowed by now [K, width]."""
        return self._rows[: len(self._slots)]

    def observe(self, tokens: Sequence[int]) -> None:
        first = len(self._tokens)
        self._tokens.extend(tokens)
        self._draft_tokens.extend(self._kind.draft_ids[list(tokens)].tolist())
        for position in range(first, len(self._tokens)):
            self._recognise(position)

    def tell(self, first: int, embeddings: Floats) -> None:
        """The target's embeddings of the tokens at positions from `first` on [n, width]."""
        end = min(first + len(embeddings), len(self._tokens))
        for position in range(max(first, self._told), end):
            if not self._recognise(position) and len(self._slots) < MAX_BORROWED:
                self._borrow(self._tokens[position], embeddings[position - first])
        self._told = max(self._told, end)
        if end < len(self._tokens):
            self._recognise(end)

    def _recognise(self, position: int) -> bool:
        """Gives a token its id if it is known; False if it isn't."""
        if self._draft_tokens[position] != self._size:
            return True
        slot = self._slots.get(self._tokens[position])
        if slot is not None:
            self._draft_tokens[position] = self._size + 1 + slot
        return slot is not None

    def _borrow(self, token: int, embedding: Floats) -> None:
        slot = self._slots[token] = len(self._slots)
        if slot == len(self._rows):
            rows = np.empty((min(max(MIN_ROOM, 2 * slot), MAX_BORROWED), self._rows.shape[1]), np.float32)
            rows[:slot] = self._rows
            self._rows = rows
        self._rows[slot] = embedding
        self._target_ids.append(token)
        assert self.noise_ids is not None
        self.noise_ids[self._size + 1 + slot] = token

    def translate(self, tree: LiveTree, selected: Sequence[int]) -> Candidates:
        return token_by_token(tree, selected, self._target_ids)
