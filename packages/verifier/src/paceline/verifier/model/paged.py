"""Keys and values of all sessions in blocks, for a device on which every step must find its memory where it was.

Blocks hold committed tokens only. A step's own rows lie apart, in the stage, where row i of the step is token slot i,
and the accepted ones are copied behind the committed tokens when acceptance has spoken. So a candidate, whatever a
drafter thought of, is never where another row's products could meet it (0 x inf is no number). Other rows of a block
are zero: a block is cleared when its first token is committed, and none is read before that.

A *token slot* is block x BLOCK_TOKENS + offset. In storage, heads lie between block and offset, so that a block of one
head is one stretch of memory; and a head's key and value lie side by side, so that reading both is one operation.
Which session holds which block is `blocks.BlockPool`'s business; its blocks come behind the reserved ones here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from paceline.verifier.model.blocks import BLOCK_TOKENS, KVSlot
from paceline.verifier.model.decoder import DecoderConfig

MAX_STEP_ROWS = 128
ONES = 8  # columns of ones behind each value: the product that weighs the values sums the weights; 8 keep it aligned
ZERO_BLOCK = MAX_STEP_ROWS // BLOCK_TOKENS  # the blocks before it are the stage
NUM_RESERVED = ZERO_BLOCK + 1
ZERO_SLOT = ZERO_BLOCK * BLOCK_TOKENS  # a token slot that nothing is ever written to

Slots = npt.NDArray[np.int64]


def stored_blocks(slot: KVSlot) -> Slots:
    """Where a session's blocks are in `PagedCache.stored`."""
    blocks: Slots = np.array(slot.blocks, dtype=np.int64) + NUM_RESERVED
    return blocks


def token_slots(blocks: Slots, positions: Slots) -> Slots:
    """Token slots of these positions of a session. blocks: from `stored_blocks`.

    Raises:
        IndexError: a position is beyond the blocks.
    """
    slots: Slots = blocks[positions // BLOCK_TOKENS] * BLOCK_TOKENS + positions % BLOCK_TOKENS
    return slots


def block_bytes(config: DecoderConfig, dtype: torch.dtype) -> int:
    """Memory of one block in all layers."""
    return config.num_layers * config.num_kv_heads * BLOCK_TOKENS * _width(config) * dtype.itemsize


class PagedCache:
    """Room for `num_blocks` x BLOCK_TOKENS tokens, and the stage.

    Attributes:
        stored: [layers, blocks, kv_heads, BLOCK_TOKENS, 2 · head_dim + ONES] in the model's dtype: keys, values, ones.
            The first NUM_RESERVED blocks are the stage and zeros.
    """

    def __init__(self, config: DecoderConfig, num_blocks: int, dtype: torch.dtype, device: torch.device) -> None:
        self._kv_heads = config.num_kv_heads
        shape = (config.num_layers, NUM_RESERVED + num_blocks, config.num_kv_heads, BLOCK_TOKENS, _width(config))
        self.stored = torch.empty(shape, dtype=dtype, device=device)
        self._clear(np.arange(NUM_RESERVED))

    @torch.inference_mode()
    def commit(self, moves: Sequence[tuple[KVSlot, Sequence[int]]]) -> None:
        """Copies rows of the last step behind each session's committed tokens. Doesn't wait for the device.

        Args:
            moves: slots and the rows of the step (counted over all its sessions) to keep, in the order of positions.

        Raises:
            IndexError: a session has no room for its rows; nothing was copied.
        """
        positions = [slot.length + np.arange(len(rows)) for slot, rows in moves]
        targets = [token_slots(stored_blocks(slot), own) for (slot, _), own in zip(moves, positions, strict=True)]
        for slot, rows in moves:
            slot.length += len(rows)
        if not sum(map(len, targets)):
            return
        sources = np.concatenate([np.array(rows, dtype=np.int64) for _, rows in moves])
        into = np.concatenate(targets)
        begun = into[into % BLOCK_TOKENS == 0] // BLOCK_TOKENS
        if len(begun):
            self._clear(begun)
        both = self._upload(np.stack([self._lines(sources), self._lines(into)]))
        lines = self.stored.flatten(1, 3)
        lines.index_copy_(1, both[1], lines.index_select(1, both[0]))

    def _clear(self, blocks: Slots) -> None:
        index = self._upload(blocks)
        self.stored[..., :-ONES].index_fill_(1, index, 0.0)
        self.stored[..., -ONES:].index_fill_(1, index, 1.0)

    def _lines(self, slots: Slots) -> Slots:
        """Where all heads of these n tokens lie in [blocks · kv_heads · BLOCK_TOKENS]. Returns [n · kv_heads]."""
        first = slots // BLOCK_TOKENS * (self._kv_heads * BLOCK_TOKENS) + slots % BLOCK_TOKENS
        lines: Slots = (first[:, None] + np.arange(self._kv_heads) * BLOCK_TOKENS).reshape(-1)
        return lines

    def _upload(self, numbers: Slots) -> torch.Tensor:
        tensor = torch.from_numpy(numbers)
        if self.stored.device.type == "cuda":
            tensor = tensor.pin_memory()  # from other memory, copying would wait for what the device is doing
        return tensor.to(self.stored.device, non_blocking=True)


def _width(config: DecoderConfig) -> int:
    return 2 * config.head_dim + ONES
