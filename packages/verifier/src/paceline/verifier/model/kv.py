"""Keys and values of one session.

A slot holds, for each layer, the keys and values of the tokens the model has seen, contiguous from position 0, and
behind them room for one step's rows. After a step the rows of the accepted path move up behind the committed ones.
Storage is float32 on the CPU whatever the weights are: attention sums in float32 in a written-down order there.
"""

from __future__ import annotations

import torch

ONES = 16  # columns of ones behind each value row: the same product that weighs the values sums the weights


class KVSlot:
    """Room for `capacity` tokens; `length` of them are committed. Only the model's thread touches it.

    Layers are allocated when they first see a row, since only the model knows their shapes.
    """

    def __init__(self, capacity: int, dtype: torch.dtype | None = None) -> None:
        self.capacity = capacity
        self.length = 0
        self._dtype = dtype
        self._keys: dict[int, torch.Tensor] = {}
        self._values: dict[int, torch.Tensor] = {}

    def write(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Puts a step's rows behind the committed ones.

        keys: [heads, n, key_dim], values: [heads, n, value_dim]. Returns the layer's whole storage: keys
        [heads, capacity, key_dim] and values [heads, capacity, value_dim + ONES].
        """
        if layer not in self._keys:
            self._allocate(layer, keys, values)
        stored_keys, stored_values = self._keys[layer], self._values[layer]
        end = self.length + keys.shape[1]
        stored_keys[:, self.length : end] = keys
        stored_values[:, self.length : end, : values.shape[-1]] = values
        return stored_keys, stored_values

    def _allocate(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        heads, _, key_dim = keys.shape
        dtype = self._dtype or keys.dtype
        self._keys[layer] = torch.empty(heads, self.capacity, key_dim, dtype=dtype, device=keys.device)
        width = values.shape[-1] + ONES
        stored = torch.empty(heads, self.capacity, width, dtype=dtype, device=values.device)
        stored[..., values.shape[-1] :] = 1.0
        self._values[layer] = stored

    def commit(self, num_chain: int, accepted: tuple[int, ...]) -> None:
        """Keeps the chain's rows and those of the accepted tree nodes, in path order; forgets the rest."""
        start = self.length + num_chain
        self.length = start + len(accepted)
        if accepted == tuple(range(len(accepted))):
            return  # the path was drafted first and lies in place
        for stored in (*self._keys.values(), *self._values.values()):
            index = torch.tensor(accepted, device=stored.device) + start
            stored[:, start : self.length] = stored[:, index]
