"""The paged cache: accepted rows move from the stage behind the committed ones, into blocks that begin clean."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_decoders import make_decoder

from paceline.verifier.model.blocks import BLOCK_TOKENS, KVSlot
from paceline.verifier.model.extract import extract
from paceline.verifier.model.paged import (
    MAX_STEP_ROWS,
    NUM_RESERVED,
    ONES,
    ZERO_SLOT,
    PagedCache,
    block_bytes,
    stored_blocks,
    token_slots,
)

CONFIG = extract(make_decoder("llama wide heads")).config


@pytest.fixture
def cache():
    """With row i of the stage full of i + 1, and what no number is wherever nothing was written yet."""
    cache = PagedCache(CONFIG, 4, torch.float32, torch.device("cpu"))
    cache.stored[:, NUM_RESERVED:] = float("nan")
    for row in range(MAX_STEP_ROWS):
        cache.stored[:, row // BLOCK_TOKENS, :, row % BLOCK_TOKENS, :-ONES] = float(row + 1)
    return cache


def kept(cache, slot):
    """What all layers and heads have at each committed position."""
    slots = token_slots(stored_blocks(slot), np.arange(slot.length))
    lines = cache.stored.transpose(2, 3).flatten(1, 2)[:, slots, :, :-ONES]
    first = lines[0, :, 0, 0]
    assert torch.equal(lines, first.view(1, -1, 1, 1).expand_as(lines))
    return first.tolist()


def test_accepted_rows_go_behind_the_committed_ones_over_the_edges_of_blocks(cache):
    slot, other = KVSlot(blocks=[3, 0]), KVSlot(blocks=[1])
    cache.commit([(slot, range(BLOCK_TOKENS - 2))])
    cache.commit([(other, [7]), (slot, [3, 90, 4, 127])])
    assert slot.length == BLOCK_TOKENS + 2
    assert kept(cache, slot) == [*(float(row + 1) for row in range(BLOCK_TOKENS - 2)), 4.0, 91.0, 5.0, 128.0]
    assert kept(cache, other) == [8.0]
    assert (cache.stored[:, stored_blocks(slot)][..., -ONES:] == 1.0).all()


def test_nothing_is_written_but_to_the_session_s_own_places(cache):
    slot = KVSlot(blocks=[2])
    cache.commit([(slot, [5])])
    before = cache.stored.clone()
    cache.commit([(slot, [6, 7])])
    same = (cache.stored == before) | (cache.stored.isnan() & before.isnan())
    changed = (~same).any(dim=-1).any(dim=2).any(dim=0)  # [blocks, offsets]
    assert changed.nonzero().tolist() == [[NUM_RESERVED + 2, 1], [NUM_RESERVED + 2, 2]]
    assert not cache.stored[:, ZERO_SLOT // BLOCK_TOKENS, ..., :-ONES].any()


def test_a_block_is_clean_from_its_first_token_on_whoever_had_it_before(cache):
    before = KVSlot(blocks=[0, 1])
    cache.commit([(before, range(BLOCK_TOKENS + 5))])
    again = KVSlot(blocks=[1])
    cache.commit([(again, [2])])
    assert kept(cache, again) == [3.0]
    assert not cache.stored[:, NUM_RESERVED + 1, :, 1:, :-ONES].any()
    assert cache.stored[:, NUM_RESERVED, ..., :-ONES].all()  # what nobody began is left alone


def test_a_session_that_does_not_fit_gets_nothing(cache):
    slot, other = KVSlot(blocks=[0]), KVSlot(blocks=[1])
    cache.commit([(slot, range(BLOCK_TOKENS))])
    before = cache.stored.nan_to_num(nan=-1.0)
    with pytest.raises(IndexError):
        cache.commit([(other, [1]), (slot, [0])])
    assert (slot.length, other.length) == (BLOCK_TOKENS, 0)
    assert torch.equal(cache.stored.nan_to_num(nan=-1.0), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_block_takes_as_many_bytes_as_it_says(dtype):
    cache = PagedCache(CONFIG, 4, dtype, torch.device("cpu"))
    assert cache.stored.nbytes == (NUM_RESERVED + 4) * block_bytes(CONFIG, dtype)
