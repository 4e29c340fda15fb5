"""Tokens that a head borrows: those of its text that its vocabulary lacks, with the target's embeddings of them.

A head's vocabulary is cut, since its output matrix is half of its work: 8,192 of SmolLM2's 49,152 tokens are nine
tenths of what it writes. Most of the rest are names, numbers and words of other languages that the text has had before.
The target's layer 0 can be told with its other states, and is the embedding of each token: so a head learns what such
tokens are while it reads, and may propose them from then on, for a handful of further rows of its output matrix. Only
for targets whose output matrix is their embedding.

In texts of n tokens, places count from 0. A token is borrowed from its second place on: at its first the target hasn't
told it yet. Ids: below vocab_size the head's own, vocab_size any token that it doesn't know, above it borrowed ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

NEVER = 1 << 40
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Borrowed:
    """What a text has beyond the vocabulary, or of B texts, padded by what is never known.

    Attributes:
        embeddings: the target's, [.., K, width].
        since: place from which each token is known [.., K].
    """

    embeddings: Tensor
    since: Tensor

    def read(self, input_ids: Tensor, vocab_size: int) -> Tensor | None:
        """[B, T, width]: embeddings of those tokens [B, T] that are borrowed; of others anything. None if none is."""
        if not self.since.shape[1]:
            return None
        index = (input_ids - vocab_size - 1).clamp(min=0)
        return self.embeddings.gather(1, index[..., None].expand(-1, -1, self.embeddings.shape[-1]))

    def known(self, places: Tensor) -> Tensor:
        """[B, S, K]: whether each token is known when the states at places [B, S], and before, are."""
        return self.since[:, None] <= places[..., None]

    def since_of(self, ids: Tensor, vocab_size: int) -> Tensor:
        """[B, T]: from which place on each of these tokens [B, T] can be proposed."""
        found = torch.where(ids < vocab_size, -1, NEVER)
        if not self.since.shape[1]:
            return found
        since = self.since.gather(1, (ids - vocab_size - 1).clamp(min=0))
        return torch.where(ids > vocab_size, since, found)

    def logits(self, normed: Tensor) -> Tensor:
        """[B, S, K] for normed hidden states [B, S, width]."""
        if not self.since.shape[1]:
            return normed[..., :0]
        return normed @ self.embeddings.to(normed.dtype).mT


def borrow(target_ids: Ids, own_ids: Ids, vocab_size: int, embedding: Tensor) -> tuple[Ids, Borrowed]:
    """A text's ids with borrowed ones among them, and those.

    Args:
        target_ids, own_ids: of the same tokens [n]; own ones are vocab_size where the vocabulary lacks them.
        embedding: the target's, [its vocab_size, width].
    """
    ids, slots, since = own_ids.copy(), dict[int, int](), list[int]()
    for place in np.flatnonzero(own_ids == vocab_size).tolist():
        token = int(target_ids[place])
        if token in slots:
            ids[place] = vocab_size + 1 + slots[token]
        else:
            slots[token] = len(slots)
            since.append(place)
    rows = embedding[torch.tensor(list(slots), dtype=torch.int64)].bfloat16()
    return ids, Borrowed(rows, torch.tensor(since, dtype=torch.int64))


def side_by_side(texts: Sequence[Borrowed | None], width: int) -> Borrowed:
    """Of several texts."""
    nothing = Borrowed(torch.zeros(0, width), torch.zeros(0, dtype=torch.int64))
    found = [text or nothing for text in texts]
    return Borrowed(
        pad_sequence([text.embeddings.float() for text in found], batch_first=True),
        pad_sequence([text.since for text in found], batch_first=True, padding_value=NEVER),
    )


def joined(own: Tensor, borrowed: Tensor, known: Tensor) -> Tensor:
    """Logits [.., vocab_size + 1 + K] by id: the vocabulary's, what can't be proposed, and borrowed ones if known."""
    other = own.new_full((*own.shape[:-1], 1), -torch.inf)
    return torch.cat((own, other, borrowed.to(own.dtype).masked_fill(~known, -torch.inf)), dim=-1)
