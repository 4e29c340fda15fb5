"""What a head borrows from its text, and what it is taught with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paceline.trainer.training.borrowing import NEVER, Borrowed, borrow, joined, side_by_side
from paceline.trainer.training.cut_loss import Side, cut_loss

torch.set_num_threads(1)
VOCAB, TARGET_VOCAB, WIDTH = 5, 12, 6
EMBEDDING = torch.randn(TARGET_VOCAB, WIDTH, generator=torch.Generator().manual_seed(0)).bfloat16().float()


def borrowed_from(target_ids: list[int]) -> tuple[list[int], Borrowed]:
    """Of a head that knows the target's tokens 0 … 4, under the same ids."""
    own = np.minimum(np.array(target_ids), VOCAB)
    ids, borrowed = borrow(np.array(target_ids), own, VOCAB, EMBEDDING)
    return ids.tolist(), borrowed


@given(st.lists(st.integers(0, TARGET_VOCAB - 1), min_size=1, max_size=30))
def test_a_token_is_borrowed_from_its_second_place_on(target_ids: list[int]) -> None:
    ids, borrowed = borrowed_from(target_ids)
    for place, (token, own) in enumerate(zip(target_ids, ids, strict=True)):
        if token < VOCAB:
            assert own == token
        elif token not in target_ids[:place]:
            assert own == VOCAB
        else:
            slot = own - VOCAB - 1
            assert int(borrowed.since[slot]) == target_ids.index(token)
            assert torch.equal(borrowed.embeddings[slot].float(), EMBEDDING[token])
    assert len(borrowed.since) == len({token for token in target_ids if token >= VOCAB})


def test_texts_side_by_side_read_their_own() -> None:
    texts = [borrowed_from([7, 1, 7, 9, 9]), borrowed_from([1, 2, 3, 4, 0]), borrowed_from([8, 8, 6, 6, 6])]
    ids = torch.tensor([text for text, _ in texts])
    both = side_by_side([borrowed for _, borrowed in texts], WIDTH)
    read = both.read(ids, VOCAB)
    assert read is not None
    assert torch.equal(read[0, 2], EMBEDDING[7])
    assert torch.equal(read[0, 4], EMBEDDING[9])
    assert torch.equal(read[2, 1], EMBEDDING[8])
    assert both.known(torch.tensor([[0, 3], [0, 3], [1, 2]])).tolist() == [
        [[True, False], [True, True]],
        [[False, False], [False, False]],
        [[True, False], [True, True]],
    ]
    assert both.since_of(ids, VOCAB).tolist() == [[NEVER, -1, 0, NEVER, 3], [-1] * 5, [NEVER, 0, NEVER, 2, 2]]


def test_without_anything_borrowed_there_is_nothing() -> None:
    nothing = side_by_side([None, None], WIDTH)
    ids = torch.tensor([[0, VOCAB], [1, 2]])
    assert nothing.read(ids, VOCAB) is None
    assert nothing.since_of(ids, VOCAB).tolist() == [[-1, NEVER], [-1, -1]]
    own = torch.randn(2, 2, VOCAB)
    logits = joined(own, nothing.logits(torch.zeros(2, 2, WIDTH)), nothing.known(ids))
    assert torch.equal(logits[..., :VOCAB], own)
    assert logits[..., VOCAB].isinf().all()


def sides(num_rows: int, num_borrowed: int, seed: int) -> tuple[Side, Side, torch.Tensor]:
    """Of a head and a teacher; rows' next tokens are of those that can be proposed."""
    generator = torch.Generator().manual_seed(seed)
    known = torch.rand(num_rows, num_borrowed, generator=generator) < 0.5
    found = []
    for scale in (1.0, 3.0):
        rows = torch.randn(num_rows, WIDTH, generator=generator) * scale
        borrowed = torch.randn(num_rows, num_borrowed, generator=generator).masked_fill(~known, -torch.inf)
        found.append(Side(rows, torch.randn(VOCAB, WIDTH, generator=generator), borrowed))
    next_ids = [
        int(torch.randint(VOCAB, (), generator=generator)) if not some.any() else VOCAB + 1 + int(some.nonzero()[-1])
        for some in known
    ]
    return found[0], found[1], torch.tensor(next_ids, dtype=torch.int64)


def plain_loss(head: Side, teacher: Side, next_ids: torch.Tensor, greedy_share: float) -> torch.Tensor:
    """As it is written down."""

    def logits(side: Side) -> torch.Tensor:
        return torch.cat((side.rows @ side.weight.T, torch.full((len(side.rows), 1), -torch.inf), side.borrowed), 1)

    goals = (1 - greedy_share) * logits(teacher).softmax(-1)
    goals[torch.arange(len(goals)), next_ids] += greedy_share
    log_probs = logits(head).log_softmax(-1)
    return -(goals * log_probs.masked_fill(goals == 0, 0.0)).sum()


@pytest.mark.parametrize(("num_rows", "num_borrowed"), [(7, 3), (300, 4), (5, 0), (0, 2)])
def test_the_loss_and_its_gradients_are_those_of_the_plain_formula(num_rows: int, num_borrowed: int) -> None:
    head, teacher, next_ids = sides(num_rows, num_borrowed, 1)
    found, expected = [], []
    for formula, into in ((cut_loss, found), (plain_loss, expected)):
        rows = head.rows.clone().requires_grad_()
        borrowed = head.borrowed.clone().requires_grad_()
        loss = formula(Side(rows, head.weight, borrowed), teacher, next_ids, 0.3)
        (2 * loss).backward()
        into += [loss.detach(), rows.grad, borrowed.grad]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours is not None
        theirs = torch.zeros_like(ours) if theirs is None else theirs
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_in_bfloat16_it_is_nearly_the_same() -> None:
    head, teacher, next_ids = sides(200, 3, 2)
    exact = cut_loss(head, teacher, next_ids, 0.5)
    with torch.autocast("cpu", torch.bfloat16):
        rough = cut_loss(head, teacher, next_ids, 0.5)
    assert rough != exact, "products were made in bfloat16"
    torch.testing.assert_close(rough, exact, rtol=0.01, atol=0.0)
