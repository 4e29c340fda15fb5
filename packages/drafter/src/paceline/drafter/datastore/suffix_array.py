"""The suffix array of a text, as far as drafting needs it: positions sorted by the tokens that follow.

Manber and Myers, *Suffix arrays: a new method for on-line string searches* (1990), by prefix doubling: positions that
are sorted by their first k tokens are sorted by their first 2k with pairs (rank here, rank k tokens further). Nobody
looks more than `SORTED_DEPTH` tokens ahead, so that is where doubling stops: the time doesn't depend on how long the
text's repetitions are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

SORTED_DEPTH: Final = 32  # a power of two: 16 tokens of context and 16 drafted ones
Tokens = npt.NDArray[np.int32]


def suffix_array(tokens: Tokens, report: Callable[[float], None] = lambda _share: None) -> Tokens:
    """Positions in the order of the SORTED_DEPTH tokens from there on; equal ones, in the order of the text.

    Takes about 50 bytes per token while it runs.

    Args:
        tokens: [n], -1 or greater, n < 2**31. The end of the text comes before any token.
        report: hears of progress, from 0 to 1.

    Returns:
        [n] positions.
    """
    rank = tokens.astype(np.int64) + 2  # 0 stands for the end
    order = np.arange(len(tokens))
    depths = [1 << power for power in range(SORTED_DEPTH.bit_length() - 1)]
    for done, depth in enumerate(depths):
        report(done / len(depths))
        pairs = rank * (int(rank.max(initial=0)) + 1)
        pairs[:-depth] += rank[depth:]
        last = 2 * depth == SORTED_DEPTH
        order = np.argsort(pairs, kind="stable" if last else "quicksort")  # only the last order of equals is seen
        rank = _ranks(pairs, order)
    report(1.0)
    return order.astype(np.int32)


def _ranks(pairs: npt.NDArray[np.int64], order: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The place of each pair among the different ones, from 1 on."""
    ordered = pairs[order]
    ranks = np.empty_like(pairs)
    ranks[order] = 1 + np.cumsum(np.append(False, ordered[1:] != ordered[:-1])[: len(pairs)])
    return ranks
