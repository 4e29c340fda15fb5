"""Hidden states of remembered prefixes: whole blocks, the right ones, and never more than there is room for."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from paceline.verifier.feature_memory import FeatureMemory
from paceline.verifier.model.blocks import BLOCK_TOKENS
from paceline.verifier.model.features import Features

LAYERS, HIDDEN = (0, 3), 4
BLOCK_BYTES = BLOCK_TOKENS * len(LAYERS) * HIDDEN * 2
KEYS = [bytes([index]) for index in range(40)]


def states(first: int, end: int, layers: tuple[int, ...] = LAYERS) -> Features:
    """Each number says where it belongs."""
    rows = np.arange(first, end, dtype=np.uint16)[:, None, None]
    return Features(first, layers, np.broadcast_to(rows, (end - first, len(layers), HIDDEN)).copy())


def positions(features: Features | None) -> list[int]:
    if features is None:
        return []
    found = list(range(features.first, features.end))
    assert features.values[:, 0, 0].tolist() == found
    return found


@given(
    first=st.integers(0, 200),
    parts=st.lists(st.integers(1, 150), min_size=1, max_size=12),
    num_known=st.integers(0, 12),
)
def test_whole_blocks_are_known_however_they_came(first: int, parts: list[int], num_known: int) -> None:
    memory, end = FeatureMemory(1 << 20), first
    for part in parts:
        memory.add(1, states(end, end + part), KEYS[: (end + part) // BLOCK_TOKENS])
        end += part
    begin = -(-first // BLOCK_TOKENS)
    whole = range(begin, end // BLOCK_TOKENS)
    told = positions(memory.recall(KEYS[:num_known]))
    if num_known in range(begin + 1, len(whole) + begin + 1):
        assert told == list(range(begin * BLOCK_TOKENS, num_known * BLOCK_TOKENS))
    else:
        assert told == []
    assert memory.num_bytes == len(whole) * BLOCK_BYTES


def test_what_was_used_longest_ago_goes_first() -> None:
    memory = FeatureMemory(2 * BLOCK_BYTES)
    memory.add(1, states(0, 2 * BLOCK_TOKENS), KEYS[:2])
    assert len(positions(memory.recall(KEYS[:1]))) == BLOCK_TOKENS
    memory.add(2, states(0, BLOCK_TOKENS), [b"other"])
    assert memory.num_bytes == 2 * BLOCK_BYTES
    assert memory.recall(KEYS[:2]) is None, "its second block was used before the first"
    assert len(positions(memory.recall(KEYS[:1]))) == BLOCK_TOKENS


def test_states_of_other_layers_do_not_mix() -> None:
    memory = FeatureMemory(1 << 20)
    memory.add(1, states(0, BLOCK_TOKENS), KEYS[:1])
    memory.add(1, states(BLOCK_TOKENS, 2 * BLOCK_TOKENS, (0, 1, 3)), KEYS[:2])
    found = memory.recall(KEYS[:2])
    assert found is not None
    assert (found.first, found.layers) == (BLOCK_TOKENS, (0, 1, 3))


def test_a_gap_begins_anew_and_an_end_leaves_whole_blocks() -> None:
    memory = FeatureMemory(1 << 20)
    memory.add(1, states(0, 70), KEYS[:1])
    memory.add(1, states(100, 200), KEYS[:3])
    assert positions(memory.recall(KEYS[:3])) == list(range(128, 192))
    memory.forget(1)
    memory.add(1, states(200, 256), KEYS[:4])
    assert memory.recall(KEYS[:4]) is None, "what was begun went with its session"
    assert positions(memory.recall(KEYS[:1])) == list(range(64))


def test_without_room_nothing_is_kept() -> None:
    memory = FeatureMemory(0)
    memory.add(1, states(0, BLOCK_TOKENS), KEYS[:1])
    assert memory.recall(KEYS[:1]) is None
    assert memory.num_bytes == 0
