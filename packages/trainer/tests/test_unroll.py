"""Drafts of many places at once are the drafts that serving would make one by one."""

from __future__ import annotations

import pytest
import torch
from tiny_heads import random_texts, tiny_head

from paceline.trainer.models.feature_head import FeatureHead
from paceline.trainer.training.unroll import Texts, unroll

torch.set_num_threads(1)
NUM_STEPS = 4


@torch.no_grad()
def drafted(head: FeatureHead, texts: Texts, text: int, start: int) -> list[torch.Tensor]:
    """The outputs of one draft, by the graph's contract: rows in passes, on keys and values that are passed back in."""
    shape = head.shape.block
    ids, places = texts.input_ids[text : text + 1], texts.position_ids[text : text + 1]
    known = head.fuse(texts.features[text : text + 1])
    keys = values = torch.zeros(1, 0, shape.num_kv_heads, shape.head_dim, dtype=known.dtype)
    hidden, first = known[:, : start + 1], 0
    outputs = []
    for end in range(start + 1, start + 1 + NUM_STEPS):
        visible = torch.ones(end - first, end).tril(first).bool()[None]
        _, hidden, new_keys, new_values = head(ids[:, first:end], places[:, first:end], visible, hidden, keys, values)
        hidden = hidden[:, -1:]
        outputs.append(hidden[0, 0])
        keys, values = torch.cat((keys, new_keys), 1), torch.cat((values, new_values), 1)
        first = end
    return outputs


@pytest.mark.parametrize("seed", range(3))
def test_drafts_at_once_are_those_of_serving(seed: int) -> None:
    head = tiny_head(seed).double()  # so that a wrong mask is not mistaken for rounding
    texts = random_texts(head, num_texts=2, length=11, num_starts=5, seed=seed)
    with torch.no_grad():
        outputs = list(unroll(head, texts, NUM_STEPS))
    for text in range(2):
        for place, start in enumerate(texts.starts[text].tolist()):
            if start + NUM_STEPS > 11:
                continue
            for step, expected in enumerate(drafted(head, texts, text, start)):
                torch.testing.assert_close(outputs[step][text, place], expected, rtol=1e-9, atol=1e-9)


def test_a_draft_sees_nothing_of_the_features_after_its_start() -> None:
    head = tiny_head(0)
    texts = random_texts(head, num_texts=1, length=11, num_starts=1, seed=0)
    start = 4
    texts = Texts(texts.input_ids, texts.position_ids, texts.features, torch.tensor([[start]]))
    features = texts.features.clone()
    features[:, start + 1 :] += 1
    changed = Texts(texts.input_ids, texts.position_ids, features, texts.starts)
    with torch.no_grad():
        for before, after in zip(unroll(head, texts, 4), unroll(head, changed, 4), strict=True):
            assert torch.equal(before, after)
        features[:, start] += 1
        assert not torch.equal(next(unroll(head, texts, 1)), next(unroll(head, changed, 1)))


def test_every_parameter_learns() -> None:
    head = tiny_head(0)
    texts = random_texts(head, num_texts=2, length=8, num_starts=4, seed=1)
    sum(head.logits(hidden).square().sum() for hidden in unroll(head, texts, 3)).backward()
    for name, parameter in head.named_parameters():
        if not parameter.requires_grad:
            assert name in ("feature_mean", "feature_scale")
            continue
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
