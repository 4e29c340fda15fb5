"""Picking tokens on the device that has the logits, for many rows at once: nothing is read back but the picks.

The noise is that of `paceline.wire.noise`: the integers are the contract's, and the logarithms the device's, which may
differ in the last place of float64 before they are rounded to float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from paceline.verifier.grammar.mask import WORD_BITS, Mask
from paceline.verifier.sampling import FORBIDDEN, MIN_TEMPERATURE, Sampling, filtered
from paceline.wire import noise


def pick_rows(
    logits: torch.Tensor,
    samplings: Sequence[Sampling],
    positions: Sequence[int],
    masks: Mapping[int, Mask] | None = None,
) -> torch.Tensor:
    """The token that `Sampler.pick` would pick after each row, [n] int64 on the device; doesn't wait for the device.

    Args:
        logits: [n, vocab], any float type.
        samplings: [n] how each row's request samples.
        positions: [n] where each row's pick stands.
        masks: of the rows after which not every token may follow.
    """
    if masks:
        logits = _masked(logits, masks)
    picks = torch.argmax(logits, dim=-1)
    rows = [row for row, sampling in enumerate(samplings) if sampling.temperature != 0.0]
    if not rows:
        return picks
    index = _upload(torch.tensor(rows), logits)
    temperatures = torch.tensor([max(samplings[row].temperature, MIN_TEMPERATURE) for row in rows])
    scores = logits.index_select(0, index).float() / _upload(temperatures, logits)[:, None]
    for number, row in enumerate(rows):
        if _filters(samplings[row]):
            scores[number] = filtered(scores[number], samplings[row])
    keys = stream_keys([samplings[row].seed for row in rows], [positions[row] for row in rows])
    drawn = torch.argmax(scores + gumbel(_upload(keys, logits), logits.shape[-1]), dim=-1)
    return picks.index_copy(0, index, drawn)


def _masked(logits: torch.Tensor, masks: Mapping[int, Mask]) -> torch.Tensor:
    """A copy with -inf for what a row's mask forbids; masks go over as they are, a bit for each token."""
    rows = _upload(torch.tensor(list(masks)), logits)
    words = _upload(torch.from_numpy(np.stack(list(masks.values()))), logits)
    bits = (words[:, :, None] >> torch.arange(WORD_BITS, device=logits.device)) & 1
    forbidden = bits.flatten(1)[:, : logits.shape[1]] == 0
    return logits.index_copy(0, rows, logits.index_select(0, rows).masked_fill(forbidden, FORBIDDEN))


def stream_keys(seeds: Sequence[int], positions: Sequence[int]) -> torch.Tensor:
    """`noise.stream_key` of each (seed, position) as int64 of the same bits, on the host. Returns [n]."""
    pairs = zip(seeds, positions, strict=True)
    return torch.tensor([_signed(noise.stream_key(seed, position)) for seed, position in pairs], dtype=torch.int64)


def uniform_bits(keys: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """`noise.uniform_bits` of all ids for each key, as int64 of the same bits. keys: [n], returns [n, vocab_size]."""
    counters = torch.arange(1, vocab_size + 1, device=keys.device) * _signed(noise.GOLDEN)
    value = counters + keys[:, None]
    value = (value ^ _shifted(value, 30)) * _signed(noise.MIX_1)
    value = (value ^ _shifted(value, 27)) * _signed(noise.MIX_2)
    return value ^ _shifted(value, 31)


def gumbel(keys: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """`sampling.gumbel` for each key. keys: [n], returns [n, vocab_size] float32."""
    u = (_shifted(uniform_bits(keys, vocab_size), 12).double() + 0.5) * 2.0**-52
    return -torch.log(-torch.log(u)).float()


def _shifted(value: torch.Tensor, count: int) -> torch.Tensor:
    """Shift to the right that fills with zeros; torch's own copies the sign."""
    return (value >> count) & ((1 << (64 - count)) - 1)


def _signed(bits: int) -> int:
    """The int64 with these 64 bits; products and sums of int64 wrap around, so they have the right bits too."""
    return bits - (1 << 64) if bits >> 63 else bits


def _filters(sampling: Sampling) -> bool:
    return sampling.top_k > 0 or sampling.top_p < 1.0 or sampling.min_p > 0.0


def _upload(numbers: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    if like.device.type == "cuda":
        numbers = numbers.pin_memory()  # from other memory, copying would wait for what the device is doing
    return numbers.to(like.device, non_blocking=True)
