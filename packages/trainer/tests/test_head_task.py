"""What a feature head is taught, and in which order."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st
from tiny_heads import BORROWING, SHAPE, tiny_head
from tiny_texts import borrowing_texts, cyclic_texts, tiny_teacher

from paceline.trainer.models.feature_head import FeatureHead
from paceline.trainer.recipes.simulate import acceptance
from paceline.trainer.training.head_task import Drafts, HeadObjective, HeadTask, HeadText, batches
from paceline.trainer.training.loop import LoopSettings, train
from paceline.trainer.training.unroll import Texts, unroll

torch.set_num_threads(1)
OBJECTIVE = HeadObjective(depth=3, depth_weight=0.5, greedy_share=0.25, batch_starts=20, share=0.5)


def make_task(
    head: FeatureHead, texts: list[HeadText], objective: HeadObjective = OBJECTIVE, seed: int = 0
) -> HeadTask:
    return HeadTask("test", head, tiny_teacher(head.shape), texts, objective, seed)


def expected_loss(head: FeatureHead, drafts: Drafts) -> tuple[float, float]:
    """Draft by draft and row by row, as the objective is written down."""
    teacher, text, vocab_size = tiny_teacher(head.shape), drafts.text, head.shape.vocab_size
    nothing = torch.zeros(0, head.shape.block.width)
    embeddings = nothing if text.borrowed is None else text.borrowed.embeddings.float()
    since = [] if text.borrowed is None else text.borrowed.since.tolist()

    def logits(own: torch.Tensor, normed: torch.Tensor, start: int) -> torch.Tensor:
        """Of one row of a draft that begins at `start`; what it can't propose has none."""
        known = torch.tensor([place <= start for place in since], dtype=torch.bool)
        others = torch.where(known, embeddings @ normed if len(embeddings) else torch.zeros(0), -torch.inf)
        return torch.cat((own, torch.tensor([-torch.inf]), others))

    others = torch.zeros(1, len(text.ids) - 1, head.shape.block.width)
    for row, token in enumerate(text.ids[1:].tolist()):
        if token > vocab_size:
            others[0, row] = embeddings[token - vocab_size - 1]
    total = weight = 0.0
    for start in drafts.starts.tolist():
        rows = Texts(
            text.ids[None, 1:],
            text.first + 1 + torch.arange(len(text.ids) - 1)[None],
            text.features[None, :-1].float(),
            torch.tensor([[start]]),
            others,
        )
        for step, hidden in enumerate(unroll(head, rows, drafts.depth)):
            row = start + step
            if row + 2 >= len(text.ids):
                break
            state, own = text.features[row + 1], hidden[0, 0]
            taught = logits(teacher(state), teacher.normed(state), start)
            if taught[text.ids[row + 2]].isinf():
                break  # nothing to be learnt here, and serving never gets beyond
            goal = 0.75 * taught.softmax(-1)
            goal[text.ids[row + 2]] += 0.25
            share = 0.5**step
            log_probs = logits(head.logits(own), head.normed(own), start).log_softmax(-1)
            total -= share * float((goal * log_probs.masked_fill(goal == 0, 0.0)).sum())
            weight += share
    return total, weight


@torch.no_grad()
def test_the_loss_is_that_of_all_rows_that_serving_gets_to() -> None:
    head = tiny_head(0)
    texts = cyclic_texts(SHAPE, 3, 12) + cyclic_texts(SHAPE, 1, 7, seed=1)
    texts[1].ids[8] = SHAPE.vocab_size
    check_loss(head, texts)


@torch.no_grad()
def test_what_a_draft_may_borrow_is_what_was_known_when_it_began() -> None:
    texts = borrowing_texts(BORROWING, 3, 12) + borrowing_texts(BORROWING, 1, 9, seed=1)
    assert any(int(text.ids.max()) > BORROWING.vocab_size for text in texts)
    check_loss(tiny_head(0, BORROWING), [*texts, *cyclic_texts(BORROWING, 1, 10)])


def check_loss(head: FeatureHead, texts: list[HeadText]) -> None:
    task = make_task(head, texts)
    examples = [Drafts(text, torch.tensor(text.starts), 3) for text in texts]
    found = task.loss(examples)
    parts = [expected_loss(head, drafts) for drafts in examples]
    assert float(found.total) == pytest.approx(sum(total for total, _ in parts), rel=1e-5)
    assert found.weight == pytest.approx(sum(weight for _, weight in parts))


@torch.no_grad()
def test_losses_of_parts_add_up() -> None:
    head = tiny_head(0)
    task = make_task(head, cyclic_texts(SHAPE, 9, 12))
    examples = task.batch(0)
    whole, parts = task.loss(examples), [task.loss(examples[part::2]) for part in range(2)]
    assert float(whole.total) == pytest.approx(sum(float(part.total) for part in parts), rel=1e-5)
    assert whole.weight == sum(part.weight for part in parts)


def starts_of(batch: list[Drafts]) -> list[tuple[int, list[int], int]]:
    return [(drafts.text.first, drafts.starts.tolist(), drafts.depth) for drafts in batch]


def test_a_batch_follows_from_its_step() -> None:
    head, texts = tiny_head(0), cyclic_texts(SHAPE, 30, 12)
    objective = HeadObjective(depth=3, shallow_steps=4, batch_starts=40)
    in_order = make_task(head, texts, objective)
    batches_in_order = [starts_of(in_order.batch(step)) for step in range(20)]
    other = make_task(head, texts, objective)
    assert [starts_of(other.batch(step)) for step in reversed(range(20))] == batches_in_order[::-1]
    assert {depth for batch in batches_in_order[:4] for _, _, depth in batch} == {1}
    assert {depth for batch in batches_in_order[4:] for _, _, depth in batch} == {3}
    assert [starts_of(make_task(head, texts, objective, 1).batch(step)) for step in range(20)] != batches_in_order


def test_deep_drafts_begin_at_a_share_of_places_and_shallow_ones_at_all() -> None:
    text = cyclic_texts(SHAPE, 1, 23)
    task = make_task(tiny_head(0), text, HeadObjective(depth=2, shallow_steps=1, share=0.3, batch_starts=100))
    (shallow,), (deep,) = task.batch(0), task.batch(1)
    assert shallow.starts.tolist() == list(text[0].starts)
    assert len(deep.starts) == math.ceil(0.3 * len(text[0].starts))
    assert set(deep.starts.tolist()) < set(text[0].starts)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=60), st.integers(1, 100), st.integers(0, 5))
def test_every_text_comes_once_in_an_epoch(sizes: list[int], batch_size: int, seed: int) -> None:
    found = batches(np.array(sizes), batch_size, np.random.default_rng(seed))
    assert Counter(index for batch in found for index in batch) == Counter(range(len(sizes)))
    for batch in found:
        assert sum(sizes[index] for index in batch) < batch_size + max(sizes)


def test_a_head_learns_what_can_be_learnt(tmp_path: Path) -> None:
    """The stride is in the features of the row where a draft begins: rows after it know it from the head alone."""
    head, texts = tiny_head(0), cyclic_texts(SHAPE, 60, 12)
    objective = HeadObjective(depth=3, shallow_steps=30, greedy_share=1.0, batch_starts=100, share=1.0)
    settings = LoopSettings(num_steps=90, learning_rate=2e-2, warmup_steps=10, checkpoint_every=90)
    before = acceptance(head, texts, 3)
    train(head, make_task(head, texts, objective), settings, tmp_path, accelerator=Accelerator(cpu=True))
    assert max(before) < 0.3
    assert min(acceptance(head, cyclic_texts(SHAPE, 20, 12, seed=5), 3)) > 0.9
