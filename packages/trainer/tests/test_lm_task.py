"""What a small language model learns from texts, and that it does learn it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from paceline.trainer.learning.objectives import OBJECTIVES
from paceline.trainer.learning.objectives.hybrid import LAMBDA
from paceline.trainer.models.decoder import Decoder, DecoderShape
from paceline.trainer.recipes.judging import judge, ranks_of
from paceline.trainer.recipes.lm_task import Learning, LmTask, can_be_learnt, targets_of
from paceline.trainer.recipes.lm_text import LmText
from paceline.trainer.training.loop import LoopSettings, train

torch.set_num_threads(1)

VOCAB = 12
SHAPE = DecoderShape(
    vocab_size=VOCAB, width=32, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=16, intermediate=48, unknown=True
)


def text(seed: int, length: int = 14, unknown: bool = False) -> LmText:
    """A prompt of two tokens and an answer that counts up from the second; its third token of every four is a run with
    the fourth."""
    start = seed % VOCAB
    ids = np.array([seed * 5 % VOCAB, *((start + place) % VOCAB for place in range(length - 1))], np.int32)
    answer = np.arange(2, length, dtype=np.int32)
    tokens = (answer - 2) - (answer - 1) // 4  # the target's token that each of the drafter's belongs to
    run = (answer - 2) % 4 >= 2
    begins = np.flatnonzero(np.diff(tokens, prepend=-1) > 0)
    top_ids = np.stack([np.where(run, -1, ids[answer]), np.full(len(answer), -1)], 1)[begins].astype(np.int32)
    probs = np.where(top_ids >= 0, 0.9, 0.0).astype(np.float32)
    if unknown:
        ids[0] = VOCAB
    with np.errstate(divide="ignore"):
        log_probs = np.log(probs)
    return LmText(
        id=f"t{seed}",
        ids=ids,
        first_answer=2,
        num_said=int(tokens[-1]) + 1,
        said_token=tokens.astype(np.int32),
        said_row=answer - 1,
        said_id=ids[answer],
        top_rows=(answer - 1)[begins],
        top_ids=top_ids,
        top_log_probs=log_probs,
        run_rows=(answer - 1)[run],
        run_log_probs=np.zeros(int(run.sum()), np.float32),
    )


def test_targets_of_rows_are_what_the_text_says_of_them() -> None:
    one = text(3, unknown=True)
    rows = torch.tensor([0, 1, 3, 4])
    told = targets_of([one], [rows], VOCAB)
    assert told.tokens.tolist() == [one.ids[1], one.ids[2], one.ids[4], one.ids[5]]
    assert told.begins.tolist() == [False, True, True, False]
    assert told.top_ids.tolist() == [[-1, -1], [one.ids[2], -1], [-1, -1], [-1, -1]]
    assert told.run_weights.tolist() == pytest.approx([0.0, 0.0, LAMBDA, LAMBDA])


def test_a_token_without_logit_is_not_asked_for() -> None:
    one = text(3)
    one.ids[2] = VOCAB
    told = targets_of([one], [torch.arange(len(one) - 1)], VOCAB)
    assert told.tokens[1] == -1


@pytest.mark.parametrize("whole_text", [False, True])
def test_a_batchs_loss_is_the_sum_of_its_parts(whole_text: bool) -> None:
    """Padding counts for nothing, so processes may divide a batch among them."""
    texts = [text(1, 14), text(2, 9, unknown=True), text(3, 11)]
    task = LmTask("x", Decoder(SHAPE), texts, Learning(objective="hybrid", whole_text=whole_text))
    whole = task.loss(texts)
    parts = [task.loss([one]) for one in texts]
    assert whole.total.item() == pytest.approx(sum(part.total.item() for part in parts), rel=1e-5)
    assert whole.weight == sum(part.weight for part in parts)


def test_batches_follow_from_the_step_alone() -> None:
    texts = [text(seed, 8 + seed % 5) for seed in range(20)]
    learning = Learning(objective="ce", batch_tokens=40, seed=4)
    one, other = (LmTask("x", Decoder(SHAPE), texts, learning) for _ in range(2))
    later = [item.id for item in other.batch(7)]
    for _ in range(2):
        assert [item.id for item in one.batch(7)] == later


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_can_be_learnt_by(objective: str) -> None:
    task = LmTask("x", Decoder(SHAPE), [text(seed) for seed in range(4)], Learning(objective=objective))
    loss = task.loss(task.batch(0))
    loss.total.backward()
    assert loss.total.item() >= 0.0
    assert loss.weight > 0


@pytest.mark.parametrize(("objective", "whole_text"), [("ce", True), ("hybrid", False)])
def test_what_is_taught_is_learnt(objective: str, whole_text: bool, tmp_path: Path) -> None:
    texts = [text(seed) for seed in range(12)]
    decoder = Decoder(SHAPE)
    before = judge(ranks_of(decoder, one) for one in texts)
    task = LmTask("x", decoder, texts, Learning(objective=objective, whole_text=whole_text, batch_tokens=256))
    train(decoder, task, LoopSettings(num_steps=120, learning_rate=1e-2, warmup_steps=5), tmp_path)
    after = judge(ranks_of(decoder, one) for one in texts)
    assert before.acceptance < 0.5
    assert after.acceptance > 0.95
    assert after.tokens_per_step_chain > 4.0


def test_texts_that_say_nothing_are_left_out() -> None:
    one = text(1)
    assert can_be_learnt(one)
    none = np.zeros(0, np.int32)
    silent = LmText(
        id="x",
        ids=one.ids,
        first_answer=2,
        num_said=4,
        said_token=none,
        said_row=none,
        said_id=none,
        top_rows=none,
        top_ids=none.reshape(0, 2),
        top_log_probs=none.reshape(0, 2).astype(np.float32),
        run_rows=none,
        run_log_probs=none.astype(np.float32),
    )
    assert not can_be_learnt(silent)
