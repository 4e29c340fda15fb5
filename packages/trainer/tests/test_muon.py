"""Muon: a momentum's directions, all of about the same length."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from paceline.trainer.training.muon import MOMENTUM, OTHERS_SHARE, Muon, orthogonal


@pytest.mark.parametrize("shape", [(8, 8), (6, 40), (40, 6), (1, 5), (5, 1)])
@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
def test_singular_values_come_near_1_and_directions_stay(shape: tuple[int, int], size: float) -> None:
    rank = min(shape)
    left, _ = torch.linalg.qr(torch.randn(shape[0], rank, generator=torch.Generator().manual_seed(1)))
    right, _ = torch.linalg.qr(torch.randn(shape[1], rank, generator=torch.Generator().manual_seed(2)))
    values = torch.linspace(0.1, 1.0, rank) * size
    found = orthogonal(left @ torch.diag(values) @ right.T)
    inner = left.T @ found @ right
    assert torch.allclose(left @ inner @ right.T, found, atol=1e-4)
    assert torch.allclose(inner, torch.diag(inner.diagonal()), atol=1e-3)
    assert inner.diagonal().min() > 0.65
    assert inner.diagonal().max() < 1.25


@pytest.mark.parametrize("shape", [(8, 8), (6, 40), (40, 6)])
def test_in_bfloat16_it_is_nearly_the_same(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    with torch.autocast("cpu", torch.bfloat16):
        found = orthogonal(matrix)
    assert found.dtype == torch.float32
    assert not torch.equal(found, orthogonal(matrix))
    assert torch.allclose(found, orthogonal(matrix), atol=0.1)


def test_no_gradient_is_no_step() -> None:
    assert torch.equal(orthogonal(torch.zeros(3, 4)), torch.zeros(3, 4))


def test_two_steps_by_hand() -> None:
    module = nn.Linear(4, 3, bias=False)
    rule = Muon({"a": module.weight}, weight_decay=0.1)
    expected = module.weight.detach().clone()
    momentum = torch.zeros(3, 4)
    for step in range(2):
        gradient = torch.randn(3, 4, generator=torch.Generator().manual_seed(step))
        module.weight.grad = gradient.clone()
        rule.step(0.5, step)
        momentum = MOMENTUM * momentum + gradient
        expected = expected * (1 - 0.5 * 0.1) - 0.5 * orthogonal(gradient + MOMENTUM * momentum)
        assert torch.allclose(module.weight, expected, atol=1e-6)


def test_a_matrix_with_more_outputs_takes_longer_steps() -> None:
    module = nn.Linear(2, 8, bias=False)
    before = module.weight.detach().clone()
    module.weight.grad = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    Muon({"a": module.weight}, weight_decay=0.0).step(1.0, 0)
    lengths = torch.linalg.svdvals(module.weight.detach() - before)
    assert 2 * 0.65 < lengths.min() <= lengths.max() < 2 * 1.25


def test_vectors_and_tables_of_tokens_are_left_to_adamw() -> None:
    torch.manual_seed(0)
    module = nn.ModuleDict({"embed_tokens": nn.Embedding(5, 4), "norm": nn.LayerNorm(4), "proj": nn.Linear(4, 4)})
    parameters = dict(module.named_parameters())
    rule = Muon(parameters, weight_decay=0.0)
    names = {name for name in rule.tensors() if name.startswith("momentum.")}
    assert names == {"momentum.proj.weight"}
    assert len(rule.tensors()) == 1 + 2 * (len(parameters) - 1)
    before = {name: item.detach().clone() for name, item in parameters.items()}
    for item in parameters.values():
        item.grad = torch.ones_like(item)
    rule.step(0.1, 0)
    for name, item in parameters.items():
        if name != "proj.weight":  # AdamW's first step is as long as its learning rate, whatever the gradient
            assert torch.allclose(before[name] - item, torch.full_like(item, 0.1 * OTHERS_SHARE), rtol=1e-3)
