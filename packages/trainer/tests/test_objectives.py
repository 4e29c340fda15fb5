"""Losses: values against formulas written out, gradients against finite differences, minima where they are known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learning_cases import (
    DIVERGENCES,
    SEEDS,
    SINGLE,
    agreeing,
    as_hybrid,
    generator,
    student,
    targets,
    targets_for,
)

from paceline.trainer.learning.objectives import OBJECTIVES
from paceline.trainer.learning.objectives.eagle3 import decayed_sum, multi_step
from paceline.trainer.learning.objectives.hybrid import run_weights
from paceline.trainer.learning.targets import UNSAYABLE, Targets
from paceline.wire.errors import PacelineError

# The target says 0 with 1/2, 1 with 1/4, and what is left, 1/4, is the rest: tokens 2 and 3. The student: 1/4 each.
P = (0.5, 0.25, 0.25)
Q = (0.25, 0.25, 0.5)
BY_HAND = {
    # 1/2 ln 2 + 1/4 ln 1 + 1/4 ln 1/2 = 1/4 ln 2
    "forward_kl": 0.25 * math.log(2),
    # 1/4 ln 1/2 + 1/4 ln 1 + 1/2 ln 2 = 1/4 ln 2
    "reverse_kl": 0.25 * math.log(2),
    # m = (3/8, 1/4, 3/8): 1/2 [1/2 ln 4/3 + 1/4 ln 2/3] twice, by symmetry
    "jsd": 0.5 * math.log(4 / 3) + 0.25 * math.log(2 / 3),
    # 1/2 (1/4 + 0 + 1/4)
    "tvd": 0.25,
    "tvd_pp": 0.25,
    # the token chosen is 0
    "ce": math.log(4),
    # 1/2 [ln 1 - ln 1/4] + 1/4 [ln 3/4 - ln 1/4]: first 0 of all, then 1 of what is left
    "pld": 0.5 * math.log(4) + 0.25 * math.log(3),
}


def small_case(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, Targets]:
    told = Targets(
        tokens=torch.tensor([0]),
        top_ids=torch.tensor([[1, 0, UNSAYABLE]]),
        top_log_probs=torch.tensor([[0.25, 0.5, 0.0]], dtype=torch.float64).log(),
        temperature=1.0,
        vocab_size=4,
    )
    return torch.full((1, 4), 0.25, dtype=dtype).log(), told


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_case_worked_out_by_hand(name: str, dtype: torch.dtype) -> None:
    log_probs, told = small_case(dtype)
    loss = OBJECTIVES[name](log_probs, told)
    assert loss.dtype == dtype
    assert loss.tolist() == pytest.approx([BY_HAND[name]], abs=1e-6 if dtype == torch.float32 else 1e-12)


def test_hybrid_adds_kl_where_the_targets_tokens_begin_and_nll_on_runs() -> None:
    """Target tokens: A, direct, the student's 0; and B, a run of the student's 2 and 3.

    At A's row and at B's first the target says 0 with 1/2, 1 with 1/4, and 1/4 of what the student has no token for.
    Uniform student, so each KL is 1/4 ln 2 (above) and each NLL is ln 4:
        row A    1/4 ln 2
        row B1   1/4 ln 2 + lambda ln 4
        row B2              lambda ln 4
    """
    log_probs, one = small_case()
    lengths = torch.tensor([1, 2])
    for target_log_probs, weight in ((None, 0.2), (torch.tensor([0.5, 0.125]).log(), 0.125)):
        weights = run_weights(lengths, target_log_probs)
        assert weights.tolist() == pytest.approx([0.0, weight, weight])
        whole = as_hybrid(
            Targets(
                tokens=torch.tensor([0, 2, 3]),
                top_ids=one.top_ids.expand(3, 3),
                top_log_probs=one.top_log_probs.expand(3, 3),
                temperature=1.0,
                vocab_size=4,
            )
        )
        object.__setattr__(whole, "begins", torch.tensor([True, True, False]))
        object.__setattr__(whole, "run_weights", weights)
        kl, nll = 0.25 * math.log(2), math.log(4)
        expected = [kl, kl + weight * nll, weight * nll]
        assert OBJECTIVES["hybrid"](log_probs.expand(3, 4), whole).tolist() == pytest.approx(expected)


def test_hybrid_refuses_targets_that_know_nothing_of_runs() -> None:
    log_probs, told = small_case()
    with pytest.raises(PacelineError, match="HybridTargets"):
        OBJECTIVES["hybrid"](log_probs, told)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_student_of_another_vocabulary_is_refused(name: str) -> None:
    told = targets_for(name, targets(0, 3, 6, 2))
    with pytest.raises(PacelineError, match="log_probs"):
        OBJECTIVES[name](student(0, 3, 7).log_softmax(-1), told)


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "tvd_pp"])  # its value isn't what it descends
@pytest.mark.parametrize(("k", "padded"), [(3, 0), (3, 2), (7, 0)], ids=["top", "padded", "whole vocabulary"])
def test_gradients_are_those_of_finite_differences(name: str, k: int, padded: int) -> None:
    told = targets_for(name, targets(3, 4, 7, k, padded))
    logits = student(5, 4, 7).requires_grad_()
    assert torch.autograd.gradcheck(lambda given: OBJECTIVES[name](given.log_softmax(-1), told), logits)


@pytest.mark.parametrize("name", DIVERGENCES)
@given(seed=SEEDS, k=st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_divergences_are_zero_where_both_agree_and_only_there(name: str, seed: int, k: int) -> None:
    log_probs = student(seed, 5, 6).log_softmax(-1)
    objective = OBJECTIVES[name]
    logits = log_probs.clone().requires_grad_()
    told = agreeing(log_probs, k)
    at_minimum = objective(logits.log_softmax(-1), told)
    # A rest below 1e-6 is raised to that.
    assert at_minimum.abs().max() < 1e-5
    if name not in ("tvd", "tvd_pp"):  # which have a corner there
        (grad,) = torch.autograd.grad(at_minimum.sum(), logits)
        assert grad.abs().max() < 1e-4
    best = told.top_ids[:, :1]
    moved = log_probs.scatter_add(-1, best, torch.full((5, 1), 0.3, dtype=torch.float64)).log_softmax(-1)
    # By e^0.3 another best token: but where it has nearly all the mass there is no more to be given to it.
    unsure = log_probs.gather(-1, best).squeeze(-1) < math.log(0.9)
    assert (objective(moved, told)[unsure] > 1e-4).all()


@pytest.mark.parametrize("name", DIVERGENCES)
@given(seed=SEEDS)
@settings(max_examples=20, deadline=None)
def test_how_the_rest_is_shared_out_does_not_matter(name: str, seed: int) -> None:
    """Only the lumped space is compared: a student may do with the rest what it likes."""
    logits = student(seed, 4, 8)
    told = targets(seed, 4, 8, 3)
    rest = torch.ones(4, 8, dtype=torch.bool).scatter(-1, told.top_ids, False)
    shuffled = logits.clone()
    shuffled[rest] = logits[rest].view(4, 5).flip(-1).reshape(-1)
    objective = OBJECTIVES[name]
    assert torch.allclose(objective(logits.log_softmax(-1), told), objective(shuffled.log_softmax(-1), told))


def test_lumping_is_below_the_whole_and_meets_it_when_everything_is_named() -> None:
    p = student(1, 50, 6).log_softmax(-1)
    q = student(2, 50, 6).log_softmax(-1)
    whole = {
        "forward_kl": (p.exp() * (p - q)).sum(-1),
        "reverse_kl": (q.exp() * (q - p)).sum(-1),
        "tvd": (p.exp() - q.exp()).abs().sum(-1) / 2,
    }
    for name, expected in whole.items():
        assert torch.allclose(OBJECTIVES[name](q, agreeing(p, 6)), expected)
        assert (OBJECTIVES[name](q, agreeing(p, 3)) <= expected + 1e-6).all()


def test_the_minimum_of_expected_cross_entropy_is_the_entropy() -> None:
    """E_p[-log q] enumerated over the tokens; at q = p it is H(p) and its gradient is 0."""
    logits = student(4, 1, 5)
    p = logits.softmax(-1)
    tokens = torch.arange(5)
    told = Targets(
        tokens=tokens,
        top_ids=torch.zeros(5, 0, dtype=torch.int64),
        top_log_probs=torch.zeros(5, 0),
        temperature=1.0,
        vocab_size=5,
    )
    logits = logits.clone().requires_grad_()
    expected = (p.squeeze(0) * OBJECTIVES["ce"](logits.log_softmax(-1).expand(5, 5), told)).sum()
    assert expected.item() == pytest.approx(-(p * p.log()).sum().item())
    (grad,) = torch.autograd.grad(expected, logits)
    assert grad.abs().max() < 1e-12


def test_tvd_pp_is_a_policy_gradient_with_tvds_expectation_and_less_variance() -> None:
    """One sample x ~ q gives -(r(x) - b) grad log q(x). Enumerated: for b = 0 the mean is the gradient of TVD; for
    b = mu it is the same, the variance is lower; divided by sigma it is what tvd_pp has."""
    told = targets(8, 1, 5, 5)
    logits = student(11, 1, 5).requires_grad_()
    (tvd_grad,) = torch.autograd.grad(OBJECTIVES["tvd"](logits.log_softmax(-1), told).sum(), logits)
    (tvd_pp_grad,) = torch.autograd.grad(OBJECTIVES["tvd_pp"](logits.log_softmax(-1), told).sum(), logits)

    q = logits.detach().softmax(-1).squeeze(0)
    p = torch.zeros(5, dtype=torch.float64).scatter(0, told.top_ids[0], told.top_log_probs[0].exp())
    rewards = (p > q).double()
    mu = (q * rewards).sum()
    sigma = (q * (rewards - mu) ** 2).sum().sqrt()
    scores = torch.eye(5, dtype=torch.float64) - q  # [x, logit]: grad log q(x)
    samples = {baseline: -(rewards - baseline).unsqueeze(-1) * scores for baseline in (0.0, float(mu))}
    means = {baseline: (q.unsqueeze(-1) * each).sum(0) for baseline, each in samples.items()}
    for mean in means.values():
        assert torch.allclose(mean, tvd_grad.squeeze(0))
    assert torch.allclose(means[float(mu)] / sigma, tvd_pp_grad.squeeze(0))
    variances = [(q.unsqueeze(-1) * (samples[b] - means[b]) ** 2).sum() for b in samples]
    assert variances[1] < variances[0]


def test_tvd_pp_learns_where_tvd_hardly_does() -> None:
    """A student that gives 1e-4 to the target's only token: TVD's gradient is 1e-4, TVD++'s a hundred times that, but
    for the bound on sigma."""
    told = Targets(
        tokens=torch.tensor([0]),
        top_ids=torch.tensor([[0]]),
        top_log_probs=torch.tensor([[-1e-4]]),
        temperature=1.0,
        vocab_size=3,
    )
    grads = {}
    for name in ("tvd", "tvd_pp"):
        logits = torch.tensor([[-9.21, 0.0, -3.0]], requires_grad=True)
        (grad,) = torch.autograd.grad(OBJECTIVES[name](logits.log_softmax(-1), told).sum(), logits)
        grads[name] = -float(grad[0, 0])
    assert grads["tvd"] < 2e-4
    assert grads["tvd_pp"] == pytest.approx(grads["tvd"] / 0.05, rel=0.01)


def test_pld_prefers_the_targets_order() -> None:
    told = agreeing(torch.tensor([[0.6, 0.2, 0.1, 0.06, 0.04]]).double().log(), 3)
    orders = [[0.4, 0.3, 0.2, 0.05, 0.05], [0.3, 0.4, 0.2, 0.05, 0.05], [0.2, 0.3, 0.4, 0.05, 0.05]]
    losses = [float(OBJECTIVES["pld"](torch.tensor([order]).double().log(), told)) for order in orders]
    assert losses == sorted(losses)


@pytest.mark.parametrize("name", OBJECTIVES)
@given(seed=SEEDS, shift=st.floats(-50, 50))
@settings(max_examples=20, deadline=None)
def test_shifting_all_logits_changes_nothing(name: str, seed: int, shift: float) -> None:
    told = targets_for(name, targets(seed, 4, 8, 3, padded=1))
    logits = student(seed, 4, 8)
    objective = OBJECTIVES[name]
    assert torch.allclose(objective(logits.log_softmax(-1), told), objective((logits + shift).log_softmax(-1), told))


@pytest.mark.parametrize("name", OBJECTIVES)
@given(seed=SEEDS)
@settings(max_examples=20, deadline=None)
def test_names_and_order_of_tokens_change_nothing(name: str, seed: int) -> None:
    plain = targets(seed, 4, 8, 3, padded=1)
    log_probs = student(seed, 4, 8).log_softmax(-1)
    renamed_to = torch.randperm(8, generator=generator(seed))
    columns = torch.randperm(3, generator=generator(seed + 1))

    def renamed(ids: torch.Tensor) -> torch.Tensor:
        return torch.where(ids == UNSAYABLE, UNSAYABLE, renamed_to[ids.clamp(min=0)])

    other = Targets(
        tokens=renamed(plain.tokens),
        top_ids=renamed(plain.top_ids)[:, columns],
        top_log_probs=plain.top_log_probs[:, columns],
        temperature=1.0,
        vocab_size=8,
    )
    if name == "hybrid" and bool((plain.tokens == UNSAYABLE).any()):
        plain, other = plain.rows(1, 4), other.rows(1, 4)  # a row's own token is always sayable there
        log_probs = log_probs[1:]
    objective = OBJECTIVES[name]
    expected = objective(log_probs, targets_for(name, plain))
    actual = objective(log_probs[:, renamed_to.argsort()], targets_for(name, other))
    assert torch.allclose(actual, expected)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_students_that_are_sure_have_finite_losses_and_gradients(name: str) -> None:
    told = targets_for(name, targets(1, 6, 50, 4, padded=1))
    logits = (student(2, 6, 50).float() * 60).requires_grad_()
    loss = OBJECTIVES[name](logits.log_softmax(-1), told)
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    assert loss.isfinite().all()
    assert grad.isfinite().all()


def test_later_steps_count_less() -> None:
    """0.8^0 * 1 + 0.8^1 * 2 + 0.8^2 * 3 = 1 + 1.6 + 1.92 = 4.52"""
    losses = [torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([3.0])]
    assert decayed_sum(losses).item() == pytest.approx(4.52)
    log_probs, told = small_case()
    steps = multi_step([log_probs, log_probs], [told, told], OBJECTIVES["tvd"])
    assert steps.item() == pytest.approx(1.8 * 0.25)
    with pytest.raises(PacelineError, match="steps"):
        decayed_sum([])
