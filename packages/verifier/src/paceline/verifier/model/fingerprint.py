"""A name for a model's weights: drafters that learned from others under the same name should know."""

from __future__ import annotations

import hashlib

import torch
from torch import nn
from torch.distributed.tensor import DTensor

SAMPLES = 1024  # numbers of each tensor, evenly spread


@torch.no_grad()
def fingerprint(model: nn.Module) -> str:
    """Hex SHA-256 over every parameter's name, type and shape, and over some of its numbers; of a model that is shared
    out among processes, over this one's share.

    It tells a model from its fine-tuned, merged or quantized kin, since these change tensors all over. It is not meant
    to find somebody who hides a change: reading all of a large model would take longer than loading it.
    """
    whole = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        own = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        numbers = own.detach().flatten()
        step = max(1, numbers.numel() // SAMPLES)
        some = numbers[::step][:SAMPLES].cpu().float().numpy().astype("<f4")
        whole.update(f"{name} {parameter.dtype} {list(own.shape)}\0".encode() + some.tobytes())
    return whole.hexdigest()
