"""Chunked losses are the plain formula, and have less in memory."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learning_cases import SEEDS, student, targets, targets_for
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from paceline.trainer.learning.chunked import chunked_loss, plain_loss, read
from paceline.trainer.learning.objectives import OBJECTIVES
from paceline.wire.errors import PacelineError


def parts(seed: int, n: int, vocab_size: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, head, and weights of the positions."""
    hidden = student(seed, n, 5, spread=1.0).to(dtype).requires_grad_()
    head = student(seed + 7, vocab_size, 5, spread=1.0).to(dtype).requires_grad_()
    return hidden, head, student(seed + 9, n, 1).squeeze(-1).to(dtype)


@pytest.mark.parametrize("name", OBJECTIVES)
@given(seed=SEEDS, n=st.integers(1, 9), chunk=st.integers(1, 12), temperature=st.sampled_from([0.6, 1.0, 2.0]))
@settings(max_examples=15, deadline=None)
def test_value_and_gradients_are_those_of_the_plain_formula(
    name: str, seed: int, n: int, chunk: int, temperature: float
) -> None:
    told = targets_for(name, targets(seed, n, 11, 4, padded=1, temperature=temperature))
    hidden, head, weights = parts(seed, n, 11)
    plain = plain_loss(hidden, head, told, OBJECTIVES[name])
    chunked = chunked_loss(hidden, head, told, OBJECTIVES[name], chunk)
    assert torch.allclose(chunked, plain, rtol=1e-12, atol=1e-12)
    expected = torch.autograd.grad((plain * weights).sum(), (hidden, head))
    actual = torch.autograd.grad((chunked * weights).sum(), (hidden, head))
    for one, other in zip(actual, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "tvd_pp"])
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    told = targets_for(name, targets(1, 5, 6, 3, temperature=0.7))
    hidden, head, _ = parts(4, 5, 6)
    assert torch.autograd.gradcheck(
        lambda one, other: chunked_loss(one, other, told, OBJECTIVES[name], 2), (hidden, head)
    )


def test_a_frozen_head_gets_no_gradient_and_hidden_states_do() -> None:
    hidden, head, _ = parts(1, 4, 6)
    head = head.detach()
    told = targets(1, 4, 6, 2)
    chunked_loss(hidden, head, told, OBJECTIVES["forward_kl"], 3).sum().backward()
    assert hidden.grad is not None
    assert head.grad is None


class Largest(TorchDispatchMode):
    """The largest tensor that any operation made."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(one, Tensor):
                self.numel = max(self.numel, one.numel())
        return result


@pytest.mark.parametrize("name", OBJECTIVES)
def test_no_tensor_of_positions_times_vocabulary_is_made(name: str) -> None:
    n, vocab_size, chunk = 64, 300, 8
    told = targets_for(name, targets(1, n, vocab_size, 4))
    hidden, head, _ = parts(2, n, vocab_size, torch.float32)
    with Largest() as largest:
        chunked_loss(hidden, head, told, OBJECTIVES[name], chunk).sum().backward()
        read(hidden, head, told, chunk)
    assert largest.numel <= max(chunk * vocab_size, head.numel())


@given(seed=SEEDS, chunk=st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_readings_are_entropy_divergence_and_choice(seed: int, chunk: int) -> None:
    told = targets(seed, 6, 8, 8, temperature=0.8)
    hidden, head, _ = parts(seed, 6, 8)
    readings = read(hidden, head, told, chunk)
    q = ((hidden @ head.T) / 0.8).detach().softmax(-1)
    p = torch.zeros_like(q).scatter(-1, told.top_ids, told.top_log_probs.exp())
    assert torch.allclose(readings.entropy, -(q * q.log()).sum(-1))
    assert torch.allclose(readings.divergence, (p - q).abs().sum(-1) / 2)
    assert torch.equal(readings.best, q.argmax(-1))


def test_nothing_in_nothing_out() -> None:
    hidden, head, _ = parts(1, 4, 6)
    told = targets(1, 4, 6, 2)
    assert len(chunked_loss(hidden[:0], head, told.rows(0, 0), OBJECTIVES["jsd"])) == 0
    assert len(read(hidden[:0], head, told.rows(0, 0)).best) == 0


def test_shapes_that_do_not_fit_are_refused_by_name() -> None:
    hidden, head, _ = parts(1, 4, 6)
    told = targets(1, 4, 6, 2)
    for changed, field in (
        ((hidden[:3], head), "hidden"),
        ((hidden, head[:5]), "head"),
        ((hidden, head[:, :4]), "head"),
    ):
        with pytest.raises(PacelineError) as raised:
            chunked_loss(*changed, told, OBJECTIVES["ce"])
        assert raised.value.field == field
    with pytest.raises(PacelineError, match="chunk"):
        chunked_loss(hidden, head, told, OBJECTIVES["ce"], 0)
