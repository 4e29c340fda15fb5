"""Keys and values of all sessions as torch tensors, in blocks.

After a step the rows of the accepted path move up behind the committed ones. Storage is float32 on the CPU whatever the
weights are: attention sums in float32 in a written-down order there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from paceline.verifier.model.blocks import BLOCK_TOKENS

ONES = 16  # columns of ones behind each value row: the same product that weighs the values sums the weights


class KVStore:
    """Room for `num_blocks` blocks in every layer. Only the model's thread touches it.

    Layers are allocated when they first see a row, since only the model knows their shapes; the system gives memory
    when a block is first written.
    """

    def __init__(self, num_blocks: int, dtype: torch.dtype | None = None) -> None:
        self.num_blocks = num_blocks
        self._dtype = dtype
        self._keys: dict[int, torch.Tensor] = {}
        self._values: dict[int, torch.Tensor] = {}

    @property
    def block_bytes(self) -> int:
        """Bytes of one block over the layers that have seen a row."""
        stored = (*self._keys.values(), *self._values.values())
        return sum(tensor.nbytes for tensor in stored) // self.num_blocks

    def write(
        self, layer: int, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Puts a step's rows where `slots` [n] says (block x BLOCK_TOKENS + offset).

        keys: [heads, n, key_dim], values: [heads, n, value_dim]. Returns the layer's whole storage: keys
        [heads, blocks, BLOCK_TOKENS, key_dim] and values [heads, blocks, BLOCK_TOKENS, value_dim + ONES].
        """
        if layer not in self._keys:
            self._allocate(layer, keys, values)
        stored_keys, stored_values = self._keys[layer], self._values[layer]
        ones = torch.ones(*values.shape[:2], ONES, dtype=stored_values.dtype, device=values.device)
        stored_keys.flatten(1, 2).index_copy_(1, slots, keys.to(stored_keys.dtype))
        stored_values.flatten(1, 2).index_copy_(1, slots, torch.cat([values.to(stored_values.dtype), ones], dim=-1))
        return stored_keys, stored_values

    def _allocate(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        heads, _, key_dim = keys.shape
        dtype = self._dtype or keys.dtype
        room = (heads, self.num_blocks, BLOCK_TOKENS)
        self._keys[layer] = torch.empty(*room, key_dim, dtype=dtype, device=keys.device)
        self._values[layer] = torch.empty(*room, values.shape[-1] + ONES, dtype=dtype, device=values.device)

    def move(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copies rows; both are slots."""
        for stored in (*self._keys.values(), *self._values.values()):
            rows = stored.flatten(1, 2)
            rows[:, torch.tensor(targets, device=rows.device)] = rows[:, torch.tensor(sources, device=rows.device)]


def slot_of(blocks: Sequence[int], position: int) -> int:
    """Where a session's token at `position` is in the store."""
    return blocks[position // BLOCK_TOKENS] * BLOCK_TOKENS + position % BLOCK_TOKENS
