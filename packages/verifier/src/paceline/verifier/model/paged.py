"""Keys and values of all sessions in blocks, for a device on which every step must find its memory where it was.

Blocks hold committed tokens only. A step's own rows lie apart, in the stage, where row i of the step is token slot i,
and the accepted ones are copied behind the committed tokens when acceptance has spoken. So a candidate, whatever a
drafter thought of, is never where another row's products could meet it (0 x inf is no number), and needs no room in its
session's blocks. All other room is zero: blocks are cleared when they are given out.

A *token slot* is block x BLOCK_TOKENS + offset. In storage, heads lie between block and offset, so that a block of one
head is one stretch of memory; and a head's key and value lie side by side, so that reading both is one operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from paceline.verifier.model.decoder import DecoderConfig

BLOCK_TOKENS = 64
MAX_STEP_ROWS = 128
ONES = 8  # columns of ones behind each value: the product that weighs the values sums the weights; 8 keep it aligned
ZERO_BLOCK = MAX_STEP_ROWS // BLOCK_TOKENS  # the blocks before it are the stage
NUM_RESERVED = ZERO_BLOCK + 1
ZERO_SLOT = ZERO_BLOCK * BLOCK_TOKENS  # a token slot that nothing is ever written to

Slots = npt.NDArray[np.int64]


class CacheFull(Exception):
    """Fewer blocks are free than a session needs."""


@dataclass(slots=True)
class PagedSlot:
    """A session's place in the cache: `length` tokens are committed. Only the model's thread touches it."""

    blocks: list[int]
    length: int = 0
    table: Slots = field(init=False)

    def __post_init__(self) -> None:
        self.table = np.array(self.blocks, dtype=np.int64)

    @property
    def capacity(self) -> int:
        return len(self.blocks) * BLOCK_TOKENS

    def token_slots(self, positions: Slots) -> Slots:
        """Token slots of these positions, which must be less than the capacity."""
        slots: Slots = self.table[positions // BLOCK_TOKENS] * BLOCK_TOKENS + positions % BLOCK_TOKENS
        return slots


class PagedCache:
    """Room for `num_blocks` x BLOCK_TOKENS tokens, and the stage.

    Attributes:
        stored: [layers, blocks, kv_heads, BLOCK_TOKENS, 2 · head_dim + ONES] in the model's dtype: keys, values, ones.
            The first NUM_RESERVED blocks are the stage and zeros.
    """

    def __init__(self, config: DecoderConfig, num_blocks: int, dtype: torch.dtype, device: torch.device) -> None:
        self._kv_heads = config.num_kv_heads
        width = 2 * config.head_dim + ONES
        shape = (config.num_layers, NUM_RESERVED + num_blocks, config.num_kv_heads, BLOCK_TOKENS, width)
        self.stored = torch.zeros(shape, dtype=dtype, device=device)
        self.stored[..., -ONES:] = 1.0
        self._free = list(range(NUM_RESERVED + num_blocks - 1, NUM_RESERVED - 1, -1))

    @property
    def num_free_tokens(self) -> int:
        return len(self._free) * BLOCK_TOKENS

    def new_slot(self, num_tokens: int) -> PagedSlot:
        """A place for a session of at most `num_tokens`.

        Raises:
            CacheFull: nothing was taken.
        """
        count = max(1, -(-num_tokens // BLOCK_TOKENS))
        if count > len(self._free):
            raise CacheFull(f"{num_tokens} tokens need {count} blocks of the KV cache, and {len(self._free)} are free")
        blocks = [self._free.pop() for _ in range(count)]
        index = self._upload(np.array(blocks, dtype=np.int64))
        self.stored[..., :-ONES].index_fill_(1, index, 0.0)
        return PagedSlot(blocks)

    def free(self, slot: PagedSlot) -> None:
        """Takes a session's blocks back; its slot is of no more use."""
        self._free.extend(reversed(slot.blocks))
        slot.blocks = []
        slot.length = 0

    @torch.inference_mode()
    def commit(self, moves: Sequence[tuple[PagedSlot, Sequence[int]]]) -> None:
        """Copies rows of the last step behind each session's committed tokens.

        Args:
            moves: slots and the rows of the step (counted over all its sessions) to keep, in the order of positions.

        Raises:
            CacheFull: a session has no room for its rows; nothing was copied.
        """
        for slot, rows in moves:
            if slot.length + len(rows) > slot.capacity:
                raise CacheFull(f"{slot.length} + {len(rows)} tokens don't fit the session's {slot.capacity}")
        sources = [np.array(rows, dtype=np.int64) for _, rows in moves]
        targets = [slot.token_slots(slot.length + np.arange(len(rows))) for slot, rows in moves]
        for slot, rows in moves:
            slot.length += len(rows)
        if not sum(map(len, sources)):
            return
        both = self._upload(np.stack([self._lines(np.concatenate(sources)), self._lines(np.concatenate(targets))]))
        lines = self.stored.flatten(1, 3)
        lines.index_copy_(1, both[1], lines.index_select(1, both[0]))

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
