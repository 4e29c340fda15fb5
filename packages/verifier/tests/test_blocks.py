"""Who holds which block of the cache: laws over any order of events."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from paceline.verifier.model.blocks import BLOCK_TOKENS, BlockPool, KVSlot

NUM_BLOCKS = 9


def fill(pool: BlockPool, tenant: str, tokens: list[int]) -> KVSlot:
    """As the engine does: what is shared, then the rest, then others may share it."""
    slot = pool.open(tenant, tokens)
    assert pool.reserve(slot, len(tokens))
    slot.length = len(tokens)
    pool.remember(slot, tokens)
    return slot


TEXT = list(range(5 * BLOCK_TOKENS))


def test_a_request_shares_what_an_earlier_one_of_its_tenant_began_with():
    pool = BlockPool(NUM_BLOCKS)
    first = fill(pool, "a", TEXT[: 3 * BLOCK_TOKENS + 5])
    assert len(first.blocks) == 4
    second = pool.open("a", [*TEXT[: 2 * BLOCK_TOKENS + 1], 7])
    assert (second.length, second.blocks) == (2 * BLOCK_TOKENS, first.blocks[:2])
    assert pool.open("b", TEXT).blocks == []
    pool.close(first)
    pool.close(second)
    assert (pool.num_available, pool.num_remembered, pool.num_held) == (NUM_BLOCKS, 3, 0)
    assert pool.open("a", TEXT).length == 3 * BLOCK_TOKENS


@pytest.mark.parametrize("count", [1, BLOCK_TOKENS, BLOCK_TOKENS + 1])
def test_the_last_token_is_never_shared_because_its_logits_are_needed(count):
    pool = BlockPool(NUM_BLOCKS)
    pool.close(fill(pool, "", TEXT[:count]))
    assert pool.open("", TEXT[:count]).length == (count - 1) // BLOCK_TOKENS * BLOCK_TOKENS


def test_the_end_of_the_text_that_was_used_longest_ago_is_given_up_first():
    pool = BlockPool(4)
    old, new = TEXT[: 2 * BLOCK_TOKENS], TEXT[BLOCK_TOKENS : 3 * BLOCK_TOKENS]
    pool.close(fill(pool, "", old))
    pool.close(fill(pool, "", new))
    slot = pool.open("", [])
    assert pool.reserve(slot, BLOCK_TOKENS)
    assert pool.open("", [*old, 0]).length == BLOCK_TOKENS
    assert pool.open("", [*new, 0]).length == 2 * BLOCK_TOKENS


def test_too_few_blocks_change_nothing():
    pool = BlockPool(2)
    slot = fill(pool, "", TEXT[:70])
    other = pool.open("", [])
    assert not pool.reserve(other, 1)
    assert (other.blocks, pool.num_held) == ([], 2)
    pool.close(slot)
    assert pool.reserve(other, 2 * BLOCK_TOKENS)


def test_blocks_that_were_used_and_are_free_again_are_named_once():
    pool = BlockPool(3)
    slot = pool.open("", [])
    pool.reserve(slot, 2 * BLOCK_TOKENS)
    assert pool.untouched_again() == []
    pool.close(slot)
    assert pool.untouched_again() == [0, 1]
    assert pool.untouched_again() == []


class Pool(RuleBasedStateMachine):
    """Sessions with texts over two tokens, so that prefixes coincide often."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(NUM_BLOCKS)
        self.sessions: list[tuple[KVSlot, list[int]]] = []
        self.content: dict[int, tuple[str, tuple[int, ...]]] = {}  # what a full block was filled with, and after what

    @rule(tenant=st.sampled_from("ab"), halves=st.lists(st.integers(0, 1), min_size=1, max_size=8))
    def open(self, tenant, halves):
        tokens = [half for half in halves for _ in range(BLOCK_TOKENS // 2)]
        slot = self.pool.open(tenant, tokens)
        assert slot.length < len(tokens)
        for index, block in enumerate(slot.blocks):
            assert self.content[block] == (tenant, tuple(tokens[: (index + 1) * BLOCK_TOKENS]))
        if not self.pool.reserve(slot, len(tokens)):
            self.pool.close(slot)
            return
        self.sessions.append((slot, tokens))
        slot.length = len(tokens)
        for index in range(len(slot.keys), len(tokens) // BLOCK_TOKENS):
            self.content[slot.blocks[index]] = (tenant, tuple(tokens[: (index + 1) * BLOCK_TOKENS]))
        self.pool.remember(slot, tokens)

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def close(self, data):
        slot, _ = self.sessions.pop(data.draw(st.integers(0, len(self.sessions) - 1)))
        self.pool.close(slot)

    @invariant()
    def every_block_is_held_remembered_or_free(self):
        held = Counter(block for slot, _ in self.sessions for block in set(slot.blocks))
        assert self.pool.num_held == len(held)
        assert self.pool.num_available == NUM_BLOCKS - len(held)
        own = [block for slot, _ in self.sessions for block in slot.blocks[len(slot.keys) :]]
        assert len(own) == len(set(own)), "two sessions would write to one block"


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
