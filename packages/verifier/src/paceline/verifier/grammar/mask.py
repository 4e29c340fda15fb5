"""Which tokens may come next, a bit for each."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.int32]
"""[⌈vocabulary / 32⌉]: token i may come next if bit i % 32 of word i // 32 is set."""

WORD_BITS = 32


def num_words(vocab_size: int) -> int:
    """Of a mask."""
    return -(-vocab_size // WORD_BITS)


def packed(tokens: Iterable[int], vocab_size: int) -> Mask:
    """The mask that allows these."""
    bits = np.zeros(num_words(vocab_size) * WORD_BITS, dtype=np.uint8)
    bits[list(tokens)] = 1
    return np.packbits(bits, bitorder="little").view("<i4")


def allowed(mask: Mask, vocab_size: int) -> npt.NDArray[np.bool_]:
    """[vocab_size] whether each token may come next."""
    bits = np.unpackbits(mask.astype("<i4", copy=False).view(np.uint8), count=vocab_size, bitorder="little")
    return bits.view(np.bool_)
