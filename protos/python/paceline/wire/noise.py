"""The sampling noise that verifier and drafters share.

``token = argmax(log_weights / T + gumbel(seed, position, id))`` draws from softmax(log_weights / T) (the Gumbel-max
trick), and since the noise is a pure function of (seed, position, id), anyone who knows the seed draws with the
same luck: a drafter whose distribution is close to the target's usually draws the same token (Daliri et al.,
*Coupling without Communication and Drafter-Invariant Speculative Decoding*).

The integers are the contract (``vectors/noise.json``): any runtime must reproduce ``uniform_bits`` exactly. The
floating-point logarithms behind them may differ in the last place between runtimes, which costs a drafter a rare
disagreement and the output nothing, because only the verifier's own noise decides.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

MASK64 = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
MIX_1 = 0xBF58476D1CE4E5B9
MIX_2 = 0x94D049BB133111EB


def mix64(value: int) -> int:
    """Finalizer of SplitMix64 (Steele, Lea and Flood 2014; Stafford's variant 13): a bijection on 64 bits."""
    value &= MASK64
    value = ((value ^ (value >> 30)) * MIX_1) & MASK64
    value = ((value ^ (value >> 27)) * MIX_2) & MASK64
    return value ^ (value >> 31)


def stream_key(seed: int, position: int) -> int:
    """Key of one position's noise: 64 bits that differ for every (seed, position).

    Args:
        seed: the request's seed, 0 <= seed < 2**64.
        position: absolute index of the token to be drawn; the first token of the prompt has index 0.
    """
    return mix64(mix64(seed + GOLDEN) + (position + 1) * GOLDEN)


def uniform_bits(seed: int, position: int, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """64 random bits for each vocabulary id. ids: [n], returns [n]."""
    counter = (ids.astype(np.uint64) + np.uint64(1)) * np.uint64(GOLDEN)
    value = counter + np.uint64(stream_key(seed, position))
    value = (value ^ (value >> np.uint64(30))) * np.uint64(MIX_1)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(MIX_2)
    mixed: npt.NDArray[np.uint64] = value ^ (value >> np.uint64(31))
    return mixed


def gumbel(seed: int, position: int, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Standard Gumbel noise for each vocabulary id, float64. ids: [n], returns [n], finite, in (-3.6, 36.8).

    52 bits and a half keep u strictly inside (0, 1), so neither logarithm can be infinite.
    """
    bits = uniform_bits(seed, position, ids) >> np.uint64(12)
    u = (bits.astype(np.float64) + 0.5) * 2.0**-52
    noise: npt.NDArray[np.float64] = -np.log(-np.log(u))
    return noise
