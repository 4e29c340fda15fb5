"""A feature head run as in a draft, for all places of many texts at once: EAGLE-3's training-time test.

A draft that begins at row s of a text first reads row s, whose hidden state is fused from the target's features, as
those of all rows before it are. Its k-th row after that is row s + k's token with the head's own output of row
s + k - 1, and sees the text's rows up to s and the draft's own. So a draft's rows are seen by nobody else, and all
drafts share the text's keys and values:

    row of the draft    token      hidden             sees
    0                   s          fused of s - 1     text 0 … s
    1                   s + 1      output of row 0    text 0 … s, draft 1
    2                   s + 2      output of row 1    text 0 … s, draft 1, 2
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from paceline.trainer.models.block import scores, weighted
from paceline.trainer.models.feature_head import FeatureHead


@dataclass(frozen=True, slots=True)
class Texts:
    """Rows of B texts, padded at their ends to T.

    Attributes:
        input_ids: of the head's vocabulary, [B, T].
        position_ids: [B, T].
        features: of the position before each row, [B, T, num_features * target_hidden_size].
        starts: rows at which drafts begin, [B, S]; padded by any row.
        others: embeddings of tokens with ids above vocab_size, [B, T, width].
    """

    input_ids: Tensor
    position_ids: Tensor
    features: Tensor
    starts: Tensor
    others: Tensor | None = None


def unroll(head: FeatureHead, texts: Texts, num_steps: int) -> Iterator[Tensor]:
    """The head's outputs [B, S, width] of each draft's rows 0, 1, … num_steps - 1, one by one.

    Rows beyond a text's end are those of its last row, and mean nothing.
    """
    stream = head.enter(texts.input_ids, head.fuse(texts.features), texts.others)
    keys, values = head.block.keys_values(stream, head.rope(texts.position_ids))
    rows = torch.arange(texts.input_ids.shape[1], device=stream.device)
    attention = _Drafts(keys, values, rows <= texts.starts[..., None])
    hidden = rows_at(stream, texts.starts)
    hidden, _, _ = head.block(hidden, head.rope(texts.position_ids.gather(1, texts.starts)), attention.first)
    yield hidden
    for step in range(1, num_steps):
        at = (texts.starts + step).clamp(max=texts.input_ids.shape[1] - 1)
        others = None if texts.others is None else rows_at(texts.others, at)
        stream = head.enter(texts.input_ids.gather(1, at), hidden, others)
        hidden, _, _ = head.block(stream, head.rope(texts.position_ids.gather(1, at)), attention.further)
        yield hidden


class _Drafts:
    """Attention of drafts' rows to their text [B, T, kv_heads, dim], as far as visible [B, S, T], and to themselves."""

    def __init__(self, keys: Tensor, values: Tensor, visible: Tensor) -> None:
        self._text = keys, values
        self._visible = visible
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []

    def first(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """A draft's row 0 is a row of the text, so its own keys and values are there already."""
        weights = torch.softmax(scores(queries, self._text[0], self._visible), dim=-1)
        return weighted(weights, self._text[1])

    def further(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Each later row sees the text, the draft's rows before it, and itself."""
        self._keys.append(keys)
        self._values.append(values)
        to_text = scores(queries, self._text[0], self._visible)
        to_draft = torch.stack([_products(queries, own) for own in self._keys], dim=-1)
        weights = torch.softmax(torch.cat((to_text, to_draft), dim=-1), dim=-1)
        to_text, to_draft = weights.split([to_text.shape[-1], len(self._keys)], dim=-1)
        sums = weighted(to_text, self._text[1])
        for own, weight in zip(self._values, to_draft.unbind(-1), strict=True):
            sums = sums + _spread(own, weight)
        return sums


def _products(queries: Tensor, keys: Tensor) -> Tensor:
    """Each row's score of its own draft's key, [B, kv_heads, group, S]."""
    batch, rows, heads, dim = queries.shape
    groups = queries.reshape(batch, rows, keys.shape[2], heads // keys.shape[2], dim)
    return ((groups * keys[:, :, :, None]).sum(-1) * dim**-0.5).permute(0, 2, 3, 1)


def _spread(values: Tensor, weights: Tensor) -> Tensor:
    """Values [B, S, kv_heads, dim] by weights [B, kv_heads, group, S], for each head: [B, S, num_heads, dim]."""
    return (values[:, :, :, None] * weights.permute(0, 3, 1, 2)[..., None]).flatten(2, 3)


def rows_at(rows: Tensor, index: Tensor) -> Tensor:
    """Rows [B, T, width] at index [B, S]."""
    return rows.gather(1, index[..., None].expand(-1, -1, rows.shape[-1]))
