"""The paged cache: blocks are given out clean and taken back, and accepted rows move from the stage into them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_decoders import make_decoder

from paceline.verifier.model.extract import extract
from paceline.verifier.model.paged import (
    BLOCK_TOKENS,
    MAX_STEP_ROWS,
    NUM_RESERVED,
    ONES,
    ZERO_SLOT,
    CacheFull,
    PagedCache,
)

CONFIG = extract(make_decoder("llama wide heads")).config


@pytest.fixture
def cache():
    """With row i of the stage full of i + 1."""
    cache = PagedCache(CONFIG, 4, torch.float32, torch.device("cpu"))
    for row in range(MAX_STEP_ROWS):
        cache.stored[:, row // BLOCK_TOKENS, :, row % BLOCK_TOKENS, :-ONES] = float(row + 1)
    return cache


def kept(cache, slot):
    """What all layers and heads have at each committed position."""
    lines = cache.stored.transpose(2, 3).flatten(1, 2)[:, slot.token_slots(np.arange(slot.length)), :, :-ONES]
    first = lines[0, :, 0, 0]
    assert torch.equal(lines, first.view(1, -1, 1, 1).expand_as(lines))
    return first.tolist()


def test_accepted_rows_go_behind_the_committed_ones_over_the_edges_of_blocks(cache):
    slot, other = cache.new_slot(2 * BLOCK_TOKENS), cache.new_slot(1)
    cache.commit([(slot, range(BLOCK_TOKENS - 2))])
    cache.commit([(other, [7]), (slot, [3, 90, 4, 127])])
    assert slot.length == BLOCK_TOKENS + 2
    assert kept(cache, slot) == [*(float(row + 1) for row in range(BLOCK_TOKENS - 2)), 4.0, 91.0, 5.0, 128.0]
    assert kept(cache, other) == [8.0]
    assert (cache.stored[..., -ONES:] == 1.0).all()


def test_nothing_is_written_but_to_the_session_s_own_places(cache):
    slot = cache.new_slot(BLOCK_TOKENS)
    before = cache.stored.clone()
    cache.commit([(slot, [5])])
    changed = (cache.stored != before).any(dim=-1).any(dim=2).any(dim=0)  # [blocks, offsets]
    assert changed.nonzero().tolist() == [[slot.blocks[0], 0]]
    assert not cache.stored[:, ZERO_SLOT // BLOCK_TOKENS, ..., :-ONES].any()


def test_blocks_come_back_and_are_clean_when_they_are_given_out(cache):
    assert cache.num_free_tokens == 4 * BLOCK_TOKENS
    slots = [cache.new_slot(BLOCK_TOKENS + 1), cache.new_slot(BLOCK_TOKENS)]
    blocks = [block for slot in slots for block in slot.blocks]
    assert len(set(blocks)) == 3
    assert min(blocks) >= NUM_RESERVED
    cache.commit([(slots[0], range(70))])
    cache.free(slots[0])
    assert cache.num_free_tokens == 3 * BLOCK_TOKENS
    again = cache.new_slot(3 * BLOCK_TOKENS)
    assert not cache.stored[:, again.blocks, ..., :-ONES].any()


def test_a_session_that_does_not_fit_takes_nothing(cache):
    slot = cache.new_slot(BLOCK_TOKENS)
    with pytest.raises(CacheFull, match="193 tokens need 4 blocks of the KV cache, and 3 are free"):
        cache.new_slot(3 * BLOCK_TOKENS + 1)
    assert cache.num_free_tokens == 3 * BLOCK_TOKENS
    cache.commit([(slot, range(BLOCK_TOKENS))])
    with pytest.raises(CacheFull, match="64 \\+ 1 tokens don't fit the session's 64"):
        cache.commit([(slot, [0])])
    assert slot.length == BLOCK_TOKENS
