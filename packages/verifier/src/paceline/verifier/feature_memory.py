"""Hidden states of remembered prefixes: what the key-value cache need not compute again, drafters would never be told.

A request whose beginning the cache remembers is read from there on only. Heads that draft with the target's states
would know nothing of what it begins with, and be the worse the more is remembered; so the states that a step captured
are kept, as long as they are among those used lately. Only what was captured for a drafter is kept, never what the
request asked not to store, and nobody finds it who doesn't bring the same tokens for the same tenant.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paceline.verifier.model.blocks import BLOCK_TOKENS
from paceline.verifier.model.features import Bits, Features


@dataclass(frozen=True, slots=True, eq=False)
class _Block:
    layers: tuple[int, ...]
    values: Bits  # [BLOCK_TOKENS, layers, hidden]


class FeatureMemory:
    """Features of whole blocks, by the keys that `KVSlot.keys` gives them. Sans-clock; not thread-safe.

    Args:
        max_bytes: of all that is kept; what was used longest ago goes first.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._blocks: OrderedDict[bytes, _Block] = OrderedDict()
        self._begun: dict[int, list[Features]] = {}  # by session, without a gap: behind its last whole block
        self.num_bytes = 0

    def add(self, session_id: int, features: Features, keys: Sequence[bytes]) -> None:
        """What a step captured of a session, and the keys of its blocks that may be shared by now."""
        if not self._max_bytes or not len(features.values):
            return
        begun = self._begun.setdefault(session_id, [])
        if begun and (begun[-1].layers != features.layers or begun[-1].end != features.first):
            begun.clear()
        begun.append(features)
        first, end = -(-begun[0].first // BLOCK_TOKENS), min(features.end // BLOCK_TOKENS, len(keys))
        if first >= end:
            return  # most steps: nothing is copied until a block is whole
        known = Features(begun[0].first, features.layers, np.concatenate([part.values for part in begun]))
        for block in range(first, end):
            whole = known.between(block * BLOCK_TOKENS, (block + 1) * BLOCK_TOKENS)
            self._store(keys[block], _Block(features.layers, whole.values.copy()))
        rest = known.between(end * BLOCK_TOKENS, known.end)
        begun[:] = [Features(rest.first, rest.layers, rest.values.copy())] if len(rest.values) else []

    def forget(self, session_id: int) -> None:
        """The session has ended; its whole blocks stay."""
        self._begun.pop(session_id, None)

    def recall(self, keys: Sequence[bytes]) -> Features | None:
        """What is known of the last of these blocks, and of those before it without a gap; None if it is nothing."""
        found: list[_Block] = []
        for key in reversed(keys):
            block = self._blocks.get(key)
            if block is None or (found and block.layers != found[0].layers):
                break
            self._blocks.move_to_end(key)
            found.append(block)
        if not found:
            return None
        values = np.concatenate([block.values for block in reversed(found)])
        return Features((len(keys) - len(found)) * BLOCK_TOKENS, found[0].layers, values)

    def _store(self, key: bytes, block: _Block) -> None:
        old = self._blocks.pop(key, None)
        self.num_bytes += block.values.nbytes - (old.values.nbytes if old else 0)
        self._blocks[key] = block
        while self.num_bytes > self._max_bytes:
            _, gone = self._blocks.popitem(last=False)
            self.num_bytes -= gone.values.nbytes
