"""A digest of a token sequence that grows with it.

A draft names the context it continues by length and digest, so a verifier can tell a draft for *this* context from
one for a context that never came to be, without the context being sent. 64 bits guard against mistakes, not against
an adversary: a forged digest only gets a useless draft verified.
"""

from __future__ import annotations

from collections.abc import Iterable

from paceline.wire.noise import GOLDEN, MASK64, mix64

EMPTY = 0x5061_6365_6C69_6E65  # "Paceline": the digest of no tokens


def extend(digest: int, tokens: Iterable[int]) -> int:
    """Digest of the sequence that `digest` stands for, followed by `tokens`."""
    for token in tokens:
        digest = mix64(digest ^ (((token + 1) * GOLDEN) & MASK64))
    return digest


def digest_of(tokens: Iterable[int]) -> int:
    """Digest of a whole sequence."""
    return extend(EMPTY, tokens)
