"""Long texts in pieces: the memory of a forward pass grows with its rows times all that they see."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from paceline.drafter.models.base import Logits, Rows

Run = Callable[[Sequence[Rows]], list[Logits]]


def score_in_pieces(run: Run, batch: Sequence[Rows], most: int) -> list[Logits]:
    """What `run(batch)` would return, with at most `most` rows of a session in each of several forward passes.

    A session in which a row sees a later one can't be cut; its rows stay together. If a pass fails, all caches are as
    before.
    """
    if all(len(rows.tokens) <= most for rows in batch):
        return run(batch)
    past = [len(rows.cache) for rows in batch]
    sizes = [most if _can_be_cut(rows, length) else len(rows.tokens) for rows, length in zip(batch, past, strict=True)]
    found: list[dict[int, Logits]] = [{} for _ in batch]
    start = [0] * len(batch)
    width = 0
    try:
        while going := [index for index, rows in enumerate(batch) if start[index] < len(rows.tokens)]:
            pieces = [_piece(batch[index], past[index], start[index], sizes[index]) for index in going]
            for index, piece, logits in zip(going, pieces, run(pieces), strict=True):
                found[index].update((start[index] + row, logits[at]) for at, row in enumerate(piece.wanted))
                start[index] += len(piece.tokens)
                width = logits.shape[1]
    except BaseException:
        for rows, length in zip(batch, past, strict=True):
            rows.cache.keep(range(length))
        raise
    return [
        np.stack([each[row] for row in rows.wanted]) if rows.wanted else np.zeros((0, width), np.float32)
        for rows, each in zip(batch, found, strict=True)
    ]


def _can_be_cut(rows: Rows, past: int) -> bool:
    return not np.triu(rows.visible[:, past:], 1).any()


def _piece(rows: Rows, past: int, start: int, size: int) -> Rows:
    end = min(start + size, len(rows.tokens))
    return Rows(
        cache=rows.cache,
        tokens=rows.tokens[start:end],
        positions=rows.positions[start:end],
        visible=rows.visible[start:end, : past + end],
        wanted=tuple(row - start for row in rows.wanted if start <= row < end),
        features=rows.features[start:end] if rows.features is not None else None,
        above=rows.above[start:end] if rows.above is not None else None,
        borrowed=rows.borrowed,
    )
