"""Figures on held-out answers, against cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paceline.trainer.models.decoder import Decoder, DecoderShape
from paceline.trainer.recipes.judging import MISSED, judge, num_steps, ranks_of
from paceline.trainer.recipes.lm_text import LmText

torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("ranks", "chain", "tree"),
    [
        ([0, 0, 0, 0, 0, 0], 1, 1),  # five drafted, one of the verifier's own
        ([1, 1, 1, 1], 4, 2),  # a chain has no second choices
        ([0, 2, 0, 9], 2, 2),  # chain: 0 and its own, 0 and its own; tree: 0, 2 and its own, then one more
        ([3, 3], 2, 2),
        ([0, 0, 0, 0, 0, 0, 0], 2, 2),
        ([MISSED, 0, 0], 2, 2),
        ([], 0, 0),
    ],
)
def test_steps_by_hand(ranks: list[int], chain: int, tree: int) -> None:
    assert num_steps(ranks, 5, 1) == chain
    assert num_steps(ranks, 5, 3) == tree


@given(st.lists(st.integers(0, 4), max_size=40), st.integers(1, 6), st.integers(1, 4))
def test_wider_and_deeper_trees_take_no_more_steps_than_no_draft(ranks: list[int], depth: int, siblings: int) -> None:
    steps = num_steps(ranks, depth, siblings)
    assert len(ranks) / (depth + 1) <= steps <= len(ranks)


def test_shares_and_rates() -> None:
    found = judge([np.array([0, 0, 5, 0]), np.array([1]), np.array([], np.int64)])
    assert found.acceptance == pytest.approx(3 / 5)
    assert found.tokens_per_step_chain == pytest.approx(5 / 3)  # [0 0 own] [0], [own]
    assert found.tokens_per_step_tree == pytest.approx(5 / 3)
    assert found.num_tokens == 5
    assert judge([]).acceptance == 0.0


def test_ranks_are_those_of_the_logits_and_runs_count_as_one() -> None:
    shape = DecoderShape(
        vocab_size=11, width=16, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8, intermediate=16
    )
    decoder = Decoder(shape, seed=3)
    ids = np.array([1, 5, 2, 9, 4], np.int32)
    logits = decoder(torch.from_numpy(ids).long()[None])[0] @ decoder.head_weight.T
    order = logits.argsort(dim=-1, descending=True)

    def text(said: list[tuple[int, int, int]]) -> LmText:
        columns = np.array(said, np.int32).T
        none = np.zeros(0, np.int32)
        return LmText(
            id="x",
            ids=ids,
            first_answer=1,
            num_said=4,
            said_token=columns[0],
            said_row=columns[1],
            said_id=columns[2],
            top_rows=none,
            top_ids=none.reshape(0, 1),
            top_log_probs=none.reshape(0, 1).astype(np.float32),
            run_rows=none,
            run_log_probs=none.astype(np.float32),
        )

    best = [int(order[row, 0]) for row in range(4)]
    third = int(order[0, 2])
    found = ranks_of(decoder, text([(0, 0, third), (1, 1, best[1]), (1, 2, best[2]), (3, 3, best[3])]))
    assert found.tolist() == [2, 0, MISSED, 0]
    broken = ranks_of(decoder, text([(1, 1, best[1]), (1, 2, int(order[2, 1]))]))
    assert broken.tolist() == [MISSED, MISSED, MISSED, MISSED]
