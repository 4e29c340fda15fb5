"""Who holds which block of the key-value cache: a fixed number of blocks, shared prefixes, nothing of tensors.

The cache is cut into blocks of BLOCK_TOKENS tokens. A session holds a table of blocks and takes one more when it grows
into it. A block that is full and committed never changes again, so a later request of the same tenant that begins with
the same tokens shares it: its keys and values are the same to the bit, however they were computed. Blocks that only the
memory of earlier requests holds are given up, least recently used first, when somebody needs one.
"""

from __future__ import annotations

import hashlib
import heapq
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

BLOCK_TOKENS = 64


@dataclass(slots=True)
class KVSlot:
    """One session's place in the cache: its blocks in order, and how many tokens are committed in them."""

    tenant: str = ""
    blocks: list[int] = field(default_factory=list)
    length: int = 0
    keys: list[bytes] = field(default_factory=list)  # of its leading blocks that others may share

    @property
    def capacity(self) -> int:
        return len(self.blocks) * BLOCK_TOKENS

    def snapshot(self) -> KVSlot:
        """As it is now, for a step that another thread runs while this one may be closed."""
        return KVSlot(self.tenant, list(self.blocks), self.length)


class BlockPool:
    """Hands out blocks 0 … num_blocks - 1. Not thread-safe."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free = list(range(num_blocks))  # a heap: low numbers first, so that few are ever touched
        self._holders = [0] * num_blocks
        self._by_key: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}
        self._unheld: OrderedDict[int, None] = OrderedDict()  # remembered prefixes, least recently used first
        self._touched: set[int] = set()

    @property
    def num_held(self) -> int:
        """Blocks that sessions hold."""
        return self.num_blocks - self.num_available

    @property
    def num_remembered(self) -> int:
        """Blocks that no session holds and a later one may share."""
        return len(self._unheld)

    @property
    def num_available(self) -> int:
        """Blocks that can be had, remembered ones included."""
        return len(self._free) + len(self._unheld)

    def open(self, tenant: str, tokens: Sequence[int]) -> KVSlot:
        """A slot that shares what the cache remembers of `tokens`, all but the last: its logits are still needed."""
        slot = KVSlot(tenant)
        for key in _keys(_root(tenant), tokens[: len(tokens) - 1]):
            block = self._by_key.get(key)
            if block is None:
                break
            self._unheld.pop(block, None)
            self._holders[block] += 1
            slot.blocks.append(block)
            slot.keys.append(key)
        slot.length = slot.capacity
        return slot

    def reserve(self, slot: KVSlot, num_tokens: int) -> bool:
        """Makes room for `num_tokens` in the slot; False, and nothing is changed, if there are too few blocks."""
        missing = (num_tokens + BLOCK_TOKENS - 1) // BLOCK_TOKENS - len(slot.blocks)
        if missing > self.num_available:
            return False
        for _ in range(missing):
            block = self._take()
            self._holders[block] = 1
            slot.blocks.append(block)
        return True

    def remember(self, slot: KVSlot, tokens: Sequence[int]) -> None:
        """Lets others share the slot's full blocks, as far as `tokens`, the session's, reach."""
        first = len(slot.keys)
        last = min(slot.length, len(tokens)) // BLOCK_TOKENS
        if last <= first:
            return
        parent = slot.keys[-1] if slot.keys else _root(slot.tenant)
        fresh = tokens[first * BLOCK_TOKENS : last * BLOCK_TOKENS]
        for index, key in enumerate(_keys(parent, fresh), start=first):
            slot.keys.append(key)
            if key not in self._by_key:
                self._by_key[key] = slot.blocks[index]
                self._key_of[slot.blocks[index]] = key

    def close(self, slot: KVSlot) -> None:
        """Gives the slot's blocks back; those that are remembered stay until they are needed."""
        for block in reversed(slot.blocks):  # the end of a text is given up before its beginning
            self._holders[block] -= 1
            if self._holders[block]:
                continue
            if block in self._key_of:
                self._unheld[block] = None
            else:
                heapq.heappush(self._free, block)
        slot.blocks, slot.keys, slot.length = [], [], 0

    def untouched_again(self) -> list[int]:
        """Free blocks that were in use since the last call: their memory can go back to the system."""
        idle = sorted(self._touched.intersection(self._free))
        self._touched.difference_update(idle)
        return idle

    def _take(self) -> int:
        if self._free:
            block = heapq.heappop(self._free)
        else:
            block, _ = self._unheld.popitem(last=False)
            del self._by_key[self._key_of.pop(block)]
        self._touched.add(block)
        return block


def _root(tenant: str) -> bytes:
    return hashlib.blake2b(tenant.encode(), digest_size=16).digest()


def _keys(parent: bytes, tokens: Sequence[int]) -> list[bytes]:
    """A key for each full block of `tokens`, which names all tokens up to the block's end, and the tenant."""
    keys: list[bytes] = []
    for start in range(0, len(tokens) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        content = array("q", tokens[start : start + BLOCK_TOKENS]).tobytes()
        parent = hashlib.blake2b(parent + content, digest_size=16).digest()
        keys.append(parent)
    return keys
