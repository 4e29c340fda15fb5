"""Linear layers on the CPU whose rows don't depend on how many rows there are.

`torch.nn.functional.linear` picks another kernel, and so another order of summation, for another number of rows; a
token verified among sixteen candidates would get other logits than the same token alone. oneDNN with weights laid out
once gives bit-identical rows for every row count from 2 up in float32, and from 2 to 32 in bfloat16, of which more are
computed in pieces (measured on AVX-512 machines with and without AMX, and probed anew when a model is loaded). It is
faster for a few rows because the weights aren't laid out at every call.
"""

from __future__ import annotations

import torch
from torch import nn

from paceline.verifier.model.sharding import join_shares, local

MIN_ROWS = 2  # one row alone takes a matrix-vector kernel with another order of summation
MAX_ROWS = 32  # in 16 bits: on processors with AMX, oneDNN takes other kernels for more, which sum in another order
PACKED_DTYPES = (torch.float32, torch.bfloat16)


class PackedLinear(nn.Linear):
    """`nn.Linear` for inference on the CPU with its weight prepacked by oneDNN. Input [..., in], output [..., out].

    Of a layer that is shared out among processes it computes this process's share, with its share of the weight.
    """

    weight: None  # type: ignore[assignment]

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)  # there is no weight of its own to make
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.register_parameter("weight", None)
        self.register_parameter("bias", linear.bias)
        self._packed = torch.ops.mkldnn._reorder_linear_weight(local(linear.weight.detach()).contiguous())

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        num_rows = rows.shape[:-1].numel()
        if num_rows <= MAX_ROWS or rows.dtype == torch.float32:
            return self._product(rows)
        # Pieces of about the same size: none has fewer than MIN_ROWS.
        pieces = rows.reshape(num_rows, -1).tensor_split(-(-num_rows // MAX_ROWS))
        return torch.cat([self._product(piece) for piece in pieces]).unflatten(0, rows.shape[:-1])

    def _product(self, rows: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, self._packed, self.bias, "none", [], "")
        return output


def pack_linears(model: nn.Module) -> int:
    """Replaces every plain `nn.Linear` of a CPU model in place; returns how many were replaced.

    Subclasses of `nn.Linear` (quantized layers and the like) do something of their own and stay as they are.
    """
    count = 0
    for name, child in list(model.named_modules()):
        if type(child) is nn.Linear and child.weight.dtype in PACKED_DTYPES and child.weight.device.type == "cpu":
            packed = PackedLinear(child)
            join_shares(model, name, child, packed)
            model.set_submodule(name, packed)
            count += 1
    return count
