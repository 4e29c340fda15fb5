"""Tree attention, against a dense reference, and to the bit against itself in other groupings."""

from __future__ import annotations

import random

import pytest
import torch
from tiny_models import GREEDY, random_tree

from paceline.verifier.model.attention import BLOCK, attend, make_layout
from paceline.verifier.model.batch import SessionPlan
from paceline.verifier.model.blocks import BLOCK_TOKENS, KVSlot
from paceline.verifier.model.kv import ONES, KVStore, slot_of

CPU = torch.device("cpu")
NUM_BLOCKS = 8


class Case:
    """Random queries, keys and values of known tokens: `path` rows by position, and as many junk rows."""

    def __init__(self, heads: int, kv_heads: int, dim: int, length: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.dim, self.length = dim, length
        self.q, self.junk_q = (torch.randn(heads, length, dim, generator=generator) for _ in range(2))
        self.k, self.junk_k = (torch.randn(kv_heads, length, dim, generator=generator) * 2 for _ in range(2))
        self.v, self.junk_v = (torch.randn(kv_heads, length, dim, generator=generator) for _ in range(2))

        self.store = KVStore(NUM_BLOCKS, torch.float32)

    def slot(self, length: int) -> KVSlot:
        """A cache whose blocks lie in any order, with the first `length` tokens in it."""
        slot = KVSlot(blocks=random.Random(length).sample(range(NUM_BLOCKS), NUM_BLOCKS), length=length)
        slots = torch.tensor([slot_of(slot.blocks, position) for position in range(length)], dtype=torch.int64)
        self.store.write(0, slots, self.k[:, :length], self.v[:, :length])
        return slot

    def attend(self, slot: KVSlot, num_chain: int, tree: tuple[list[int], list[int], list[int]], **kind):
        """Outputs of the chain's rows and of the path's, in the order of positions."""
        tokens, parents, on_path = tree
        start = slot.length
        plan = SessionPlan(slot, (0,) * num_chain, True, tuple(tokens), tuple(parents), GREEDY)
        layout = make_layout(plan, 0, CPU)
        rows = []
        for stored, junk in ((self.q, self.junk_q), (self.k, self.junk_k), (self.v, self.junk_v)):
            mixed = torch.cat([stored[:, start : start + num_chain], junk[:, : len(tokens)]], dim=1)
            for offset, node in enumerate(on_path):
                mixed[:, num_chain + node] = stored[:, start + num_chain + offset]
            rows.append(mixed)
        output = attend(self.store, layout, 0, *rows, scaling=self.dim**-0.5, **kind)
        return output[[*range(num_chain), *(num_chain + node for node in on_path)]]

    def dense(self, sliding_window: int | None = None, softcap: float | None = None) -> torch.Tensor:
        """The same by definition, in float64: [length, heads, dim]."""
        group = self.q.shape[0] // self.k.shape[0]
        keys, values = (stored.double().repeat_interleave(group, dim=0) for stored in (self.k, self.v))
        scores = self.q.double() @ keys.transpose(1, 2) * self.dim**-0.5
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        distance = torch.arange(self.length)[:, None] - torch.arange(self.length)[None, :]
        hidden = (distance < 0) | (distance >= (sliding_window or self.length + 1))
        scores = scores.masked_fill(hidden, float("-inf"))
        return (torch.softmax(scores, dim=-1) @ values).transpose(0, 1)


NO_TREE: tuple[list[int], list[int], list[int]] = ([], [], [])
KINDS = [{}, {"sliding_window": 20}, {"softcap": 3.0}, {"sliding_window": 300, "softcap": 3.0}]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_equals_attention_by_definition(kind):
    case = Case(6, 2, 16, BLOCK + 30)
    expected = case.dense(**kind)
    shapes = [(0, 40, 0, 0), (0, 1, 5, 7), (100, 3, 9, 20), (BLOCK - 6, 2, 12, 12), (BLOCK, 1, 9, 9)]
    for start, chain, path, junk in shapes:
        tree = random_tree([0] * path, junk, random.Random(start))
        output = case.attend(case.slot(start), chain, tree, **kind)
        wanted = expected[start : start + chain + path]
        assert torch.allclose(output.double(), wanted, atol=2e-5), (start, chain, path, junk)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(2, 2, 8), (4, 2, 16), (4, 1, 32), (9, 3, 64), (3, 3, 128)])
def test_a_row_has_the_same_bits_alone_and_in_any_tree(heads, kv_heads, dim, kind):
    case = Case(heads, kv_heads, dim, BLOCK + 40)
    rng = random.Random(dim)
    starts = [0, 1, 2, 3, rng.randrange(4, BLOCK - 40), BLOCK - 9, BLOCK - 1, BLOCK, BLOCK + 1]
    slot = case.slot(0)
    alone: list[torch.Tensor] = []
    for position in range(case.length):
        alone.append(case.attend(slot, 1, NO_TREE, **kind)[0])
        assert slot.length == position
        slot.length += 1
    for start in starts:
        for chain, path, junk in ((1, 0, 0), (1, 12, 0), (1, 8, 20), (5, 7, 30), (28, 0, 0)):
            tree = random_tree([0] * path, junk, rng)
            output = case.attend(case.slot(start), chain, tree, **kind)
            assert torch.equal(output, torch.stack(alone[start : start + chain + path])), (start, chain, path, junk)


def test_layout_gives_each_node_the_position_after_its_parent_and_sight_of_its_ancestors_only():
    slot = KVSlot(blocks=[3], length=10)
    layout = make_layout(SessionPlan(slot, (7, 8), True, (1, 2, 3, 4), (-1, 0, -1, 1), GREEDY), 5, CPU)
    assert (layout.start, layout.end) == (5, 11)
    assert layout.slots.tolist() == [3 * BLOCK_TOKENS + offset for offset in range(10, 16)]
    assert layout.positions.tolist() == [10, 11, 12, 13, 12, 14]
    seen = [[column for column in range(6) if layout.blocked[row, column] == 0.0] for row in range(6)]
    assert seen == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 4], [0, 1, 2, 3, 5]]


def test_rows_are_written_where_they_belong_and_move_with_their_ones():
    store = KVStore(3, torch.float32)
    rows = torch.arange(12.0)[None, :, None].expand(2, 12, 3)
    slots = torch.tensor([slot_of([2, 0], position) for position in range(60, 72)])
    keys, values = store.write(0, slots, rows, rows)
    assert keys[1, 2, 60:, 2].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert values[0, 0, :8, 1].tolist() == [4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0]
    store.move([slot_of([2, 0], 65), slot_of([2, 0], 71)], [slot_of([2, 0], 61), slot_of([2, 0], 64)])
    assert keys[1, 2, 61, 0] == values[0, 2, 61, 0] == 5.0
    assert keys[1, 0, 0, 0] == values[0, 0, 0, 0] == 11.0
    assert torch.equal(values[:, 2, 61, -ONES:], torch.ones(2, ONES))
    assert store.block_bytes == 2 * BLOCK_TOKENS * (3 + 3 + ONES) * 4
