"""What every runtime checks before it runs a batch: out of bounds, a token can end a GPU's process."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paceline.drafter.models.base import Rows
from paceline.wire.errors import PacelineError, Reason, out_of_range


def check_batch(batch: Sequence[Rows], vocab_size: int, max_length: int) -> None:
    """That shapes fit together, and that tokens and positions are what the model was made for.

    Raises:
        PacelineError: OUT_OF_RANGE for a token or a position, MALFORMED for shapes that don't fit, for a row that sees
            nothing, and for a cache that is there twice.
    """
    if len({id(rows.cache) for rows in batch}) < len(batch):
        raise PacelineError(Reason.MALFORMED, "a session is in the batch twice; give all its rows at once")
    for rows in batch:
        count, total = len(rows.tokens), len(rows.cache) + len(rows.tokens)
        if not count or rows.positions.shape != (count,) or rows.visible.shape != (count, total):
            raise PacelineError(
                Reason.MALFORMED,
                f"{count} tokens come with positions {rows.positions.shape} and a mask {rows.visible.shape}; "
                f"they must be ({count},) and ({count}, {total}), with at least one token",
            )
        if not rows.visible.diagonal(total - count).all():
            raise PacelineError(Reason.MALFORMED, "a row doesn't see itself; each must", field="visible")
        _check_within("tokens", rows.tokens, vocab_size + rows.num_borrowed)
        _check_within("positions", rows.positions, max_length)
        if rows.wanted:
            _check_within("wanted", np.asarray(rows.wanted), count)


def check_told(batch: Sequence[Rows], num_features: int) -> None:
    """That a head is told something of each row: features [n, num_features] of all, or of all a cached row above.
    Raises MALFORMED or OUT_OF_RANGE."""
    for rows in batch:
        count, told = len(rows.tokens), [part.shape for part in (rows.features, rows.above) if part is not None]
        if told != [(count, num_features) if rows.above is None else (count,)]:
            message = f"each of {count} rows must come with {num_features} features, or with a row above it"
            raise PacelineError(Reason.MALFORMED, message, field="features")
        if rows.above is not None and not 0 <= rows.above.min() <= rows.above.max() < len(rows.cache):
            raise out_of_range("above", "a row that isn't there", f"below the {len(rows.cache)} that are cached")


def _check_within(field: str, values: np.ndarray, end: int) -> None:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= end:
        raise out_of_range(field, low if low < 0 else high, f"at least 0 and below {end}")


def first_moved(rows: Sequence[int], length: int) -> int:
    """How many of the rows to keep are where they belong already. Raises OUT_OF_RANGE for rows that aren't there."""
    if isinstance(rows, range) and rows == range(len(rows)) and len(rows) <= length:
        return len(rows)
    chosen = np.asarray(rows, dtype=np.int64)
    if not len(chosen):
        return 0
    _check_within("rows", chosen, length)
    apart = np.nonzero(chosen != np.arange(len(chosen)))[0]
    return int(apart[0]) if len(apart) else len(chosen)
