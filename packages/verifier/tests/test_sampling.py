"""Picking tokens: filters by definition, noise by contract, frequencies by the softmax."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from paceline.verifier.grammar.mask import allowed, packed
from paceline.verifier.sampling import Sampler, Sampling, filtered, gumbel
from paceline.wire import noise

CPU = torch.device("cpu")
# Steps of a quarter make ties common; no two different sums come within rounding of each other.
logits_lists = st.lists(st.integers(-24, 24).map(lambda number: number / 4), min_size=1, max_size=12)


def softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def kept_by_definition(logits: list[float], top_k: int, top_p: float, min_p: float) -> set[int]:
    """Which tokens stay, one filter after the other."""
    scores = np.array(logits, dtype=np.float64)
    kept = set(range(len(scores)))
    if top_k:
        kth = sorted(scores, reverse=True)[min(top_k, len(scores)) - 1]
        kept = {token for token in kept if scores[token] >= kth}
    if top_p < 1.0:
        order = sorted(kept, key=lambda token: (-scores[token], token))
        probabilities = softmax(scores[order])
        mass, nucleus = 0.0, set()
        for token, probability in zip(order, probabilities, strict=True):
            if mass >= top_p and nucleus:
                break
            nucleus.add(token)
            mass += probability
            assume(abs(mass - top_p) > 1e-6)
        kept = nucleus
    if min_p > 0.0:
        best = max(scores[list(kept)])
        ratios = {token: math.exp(scores[token] - best) for token in kept}
        assume(all(abs(ratio - min_p) > 1e-6 for ratio in ratios.values()))
        kept = {token for token in kept if ratios[token] >= min_p}
    return kept


@given(logits_lists, st.integers(0, 13), st.floats(0.01, 1.0), st.floats(0.0, 0.99))
def test_filters_keep_what_their_definition_keeps(logits, top_k, top_p, min_p):
    scores = filtered(torch.tensor(logits), Sampling(1.0, top_k, top_p, min_p))
    kept = {token for token, score in enumerate(scores.tolist()) if score != -math.inf}
    assert kept == kept_by_definition(logits, top_k, top_p, min_p)
    assert all(scores[token] == logits[token] for token in kept)


@given(logits_lists)
def test_greedy_takes_the_lowest_id_of_the_best(logits):
    expected = logits.index(max(logits))
    for dtype in (torch.float32, torch.bfloat16):
        assert Sampler(Sampling()).pick(torch.tensor(logits, dtype=dtype), 3) == expected


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1))
def test_the_noise_is_the_contracts(seed, position):
    expected = noise.gumbel(seed, position, np.arange(50))
    assert torch.equal(gumbel(seed, position, 50, CPU), torch.from_numpy(expected).float())


@given(logits_lists, st.floats(0.05, 5.0), st.integers(0, 2**64 - 1), st.integers(0, 10_000))
def test_a_pick_is_the_noisy_maximum_and_the_same_again(logits, temperature, seed, position):
    sampler = Sampler(Sampling(temperature, seed=seed))
    picked = sampler.pick(torch.tensor(logits), position)
    scores = np.array(logits) / temperature + noise.gumbel(seed, position, np.arange(len(logits)))
    assert scores[picked] == pytest.approx(scores.max(), abs=1e-3)
    assert sampler.pick(torch.tensor(logits), position) == picked


def test_another_seed_or_position_draws_anew():
    logits = torch.zeros(1000)
    picks = {Sampler(Sampling(1.0, seed=seed)).pick(logits, position) for seed in range(5) for position in range(5)}
    assert len(picks) > 20


@pytest.mark.parametrize(
    "sampling",
    [Sampling(1.0), Sampling(0.5), Sampling(2.0, top_k=4), Sampling(1.0, top_p=0.8), Sampling(1.0, min_p=0.2)],
    ids=str,
)
def test_tokens_come_as_often_as_the_filtered_softmax_says(sampling):
    logits = torch.tensor([1.0, 0.5, 0.0, -0.5, -1.0, 2.0])
    expected = softmax(filtered(logits / sampling.temperature, sampling).double().numpy())
    draws = 10_000
    counts = np.zeros(6)
    for position in range(draws):
        counts[Sampler(sampling).pick(logits, position)] += 1
    possible = expected > 0
    assert counts[~possible].sum() == 0
    chi_square = ((counts - draws * expected)[possible] ** 2 / (draws * expected[possible])).sum()
    assert chi_square < 30  # five degrees of freedom at most: 1e-5


def test_a_temperature_next_to_zero_is_greedy_and_not_nonsense():
    logits = torch.tensor([0.0, 3.0, -7.0, 2.9])
    for temperature in (1e-3, 1e-30, 5e-324):
        assert Sampler(Sampling(temperature, top_p=0.9, seed=1)).pick(logits, 4) == 1


@given(
    st.lists(st.floats(-20, 20, width=32), min_size=40, max_size=40),
    st.sets(st.integers(0, 39), min_size=1),
    st.builds(
        Sampling, st.sampled_from((0.0, 0.7)), st.integers(0, 5), st.sampled_from((1.0, 0.6)), seed=st.integers(0, 99)
    ),
)
def test_with_a_mask_it_is_the_pick_among_what_is_allowed(logits, tokens, sampling):
    """As if the others were infinitely unlikely, so filters count only what is allowed."""
    mask = packed(tokens, 40)
    assert set(np.flatnonzero(allowed(mask, 40)).tolist()) == tokens
    sampler, values = Sampler(sampling), torch.tensor(logits)
    only = torch.full_like(values, float("-inf"))
    only[list(tokens)] = values[list(tokens)]
    picked = sampler.pick(values, 7, mask)
    assert picked in tokens
    assert picked == sampler.pick(only, 7)
    assert torch.equal(values, torch.tensor(logits))
