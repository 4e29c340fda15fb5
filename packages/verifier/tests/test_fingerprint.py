"""The fingerprint of a model's weights."""

from __future__ import annotations

import torch
from torch import nn

from paceline.verifier.model.fingerprint import SAMPLES, fingerprint


def some_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Embedding(50, 40), nn.Linear(40, 8))


def test_the_same_weights_have_the_same_one() -> None:
    assert fingerprint(some_model()) == fingerprint(some_model())
    assert len(fingerprint(some_model())) == 64


def test_other_weights_another_type_or_shape_have_another() -> None:
    tuned = some_model()
    with torch.no_grad():
        tuned[1].weight.mul_(1.001)
    shorter = nn.Sequential(nn.Embedding(49, 40), some_model()[1])
    found = [some_model(), some_model(1), some_model().bfloat16(), tuned, shorter]
    assert len(set(map(fingerprint, found))) == len(found)


def test_a_row_that_lies_differently_in_memory_is_the_same_weight() -> None:
    model, other = nn.Linear(3, 4, bias=False), nn.Linear(3, 4, bias=False)
    other.weight = nn.Parameter(model.weight.detach().T.contiguous().T)
    assert not other.weight.is_contiguous()
    assert fingerprint(model) == fingerprint(other)


def test_numbers_all_over_a_tensor_count() -> None:
    model = nn.Linear(1, 10 * SAMPLES, bias=False)
    nn.init.zeros_(model.weight)
    before = fingerprint(model)
    for row in (0, 10 * (SAMPLES // 2), 10 * (SAMPLES - 1)):
        with torch.no_grad():
            model.weight[row] = 1.0
        assert fingerprint(model) != before
        with torch.no_grad():
            model.weight[row] = 0.0
