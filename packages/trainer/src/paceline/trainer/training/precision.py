"""In which numbers products are made while a module is trained."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

PRECISIONS = ("auto", "float32", "bfloat16")


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 itself. Processors with AMX make some eight times as many products of it
    as of float32; on others it is emulated, at a fraction of float32's speed."""
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return device.type != "cuda" or torch.cuda.is_bf16_supported()


def products_in(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """Within it the products of forward passes, and so of their backward passes, are made in that precision.

    Args:
        precision: one of PRECISIONS; ValueError otherwise. "auto" is bfloat16 where `has_bfloat16`.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; it must be one of {', '.join(PRECISIONS)}")
    bfloat16 = precision == "bfloat16" or (precision == "auto" and has_bfloat16(device))
    return torch.autocast(device.type, torch.bfloat16, enabled=bfloat16)
