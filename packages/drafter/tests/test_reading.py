"""What is read out of logits against the formulas, worked out over the whole vocabulary."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.drafter.reading import MAX_DRAWN, Reader
from paceline.drafter.strategies.base import Sampling
from paceline.wire.noise import gumbel

SIZE = 50
IDS = np.arange(SIZE)


def logits_of(seed: int, size: int = SIZE) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((1, size)) * 2.0).astype(np.float32)


@given(st.integers(0, 1000), st.sampled_from([3, 40, 160, 321, 1000]), st.integers(1, 12), st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_best_are_found_wherever_they_are(seed, size, count, alike):
    """Several rows at once; equal values, of which the first come first; values that are not to be had."""
    rng = np.random.default_rng(seed)
    rows = (rng.integers(-2, 3, (4, size)) if alike else rng.standard_normal((4, size))).astype(np.float32)
    rows[rng.random((4, size)) < 0.3] = -np.inf
    rows[:, 0] = 1.0
    found = Reader(Sampling(), size, width=count).read(rows, [0] * 4)
    for row, successors in zip(rows, found, strict=True):
        expected = np.sort(row[np.isfinite(row)])[::-1][:count]
        assert row[successors.tokens].tolist() == expected.tolist()
        assert len(set(successors.tokens.tolist())) == len(successors)
        assert all(
            (row[left], -left) > (row[right], -right)
            for left, right in zip(successors.tokens, successors.tokens[1:], strict=False)
        )


def log_softmax(values: np.ndarray) -> np.ndarray:
    values = values.astype(np.float64)
    return values - np.logaddexp.reduce(values)


@given(st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_greedy_is_the_best_tokens_with_their_probabilities(seed):
    logits = logits_of(seed)
    (found,) = Reader(Sampling(), SIZE, width=5, noise_ids=IDS).read(logits, [3])
    expected = log_softmax(logits[0])
    order = np.argsort(-expected, kind="stable")[:5]
    assert found.tokens.tolist() == order.tolist()
    np.testing.assert_allclose(found.log_q, expected[order], atol=1e-6)  # float32
    np.testing.assert_allclose(found.claims, found.log_q)
    assert found.entropy == pytest.approx(-(np.exp(expected) * expected).sum())


@given(st.integers(0, 1000), st.floats(0.2, 3.0))
@settings(max_examples=30, deadline=None)
def test_at_a_temperature_the_first_is_what_the_target_would_draw(seed, temperature):
    logits = logits_of(seed)
    sampling = Sampling(temperature=temperature, seed=seed)
    (found,) = Reader(sampling, SIZE, width=4, noise_ids=IDS).read(logits, [11])
    score = log_softmax(logits[0] / temperature) + gumbel(seed, 11, IDS)
    assert found.tokens.tolist() == np.argsort(-score, kind="stable")[:4].tolist()
    assert np.exp(found.claims).sum() <= 1.0 + 1e-9
    assert (np.diff(found.claims) <= 0.0).all()


def test_noise_is_of_the_targets_tokens():
    logits, shared = logits_of(1), np.where(IDS % 2 == 0, IDS + 1000, -1)
    sampling = Sampling(temperature=1.0, seed=5)
    (found,) = Reader(sampling, SIZE, width=SIZE, noise_ids=shared).read(logits, [2])
    for token, noise in zip(found.tokens, found.noise, strict=True):
        expected = gumbel(5, 2, shared[token : token + 1])[0] if shared[token] >= 0 else 0.0
        assert noise == expected


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(1.0, top_k=3), 3),
        (Sampling(1.0, min_p=0.999), 1),
        (Sampling(1.0, top_p=1e-9), 1),
    ],
)
def test_what_the_request_filters_out_is_not_proposed(sampling, kept):
    logits = logits_of(4)
    (found,) = Reader(sampling, SIZE, width=8, noise_ids=IDS).read(logits, [0])
    assert sorted(found.tokens) == sorted(np.argsort(-logits[0])[:kept])
    assert np.exp(found.log_q).sum() == pytest.approx(1.0)


def test_only_what_can_be_said_is_proposed():
    logits, allowed = logits_of(2), np.zeros(SIZE, np.bool_)
    allowed[[3, 9, 20]] = True
    (found,) = Reader(Sampling(), SIZE, width=8, allowed=allowed).read(logits, [0])
    assert sorted(found.tokens) == [3, 9, 20]
    assert np.exp(found.log_q).sum() == pytest.approx(1.0)
    (nothing,) = Reader(Sampling(), SIZE, width=8, allowed=np.zeros(SIZE, np.bool_)).read(logits, [0])
    assert len(nothing) == 0


def test_logits_beyond_the_vocabulary_mean_nothing():
    logits = logits_of(3, SIZE + 14)
    logits[0, SIZE:] = 100.0
    (found,) = Reader(Sampling(), SIZE, width=8).read(logits, [0])
    assert max(found.tokens) < SIZE


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_broken_model_says_nothing(value):
    logits = np.full((1, SIZE), value, np.float32)
    (found,) = Reader(Sampling(), SIZE, width=4).read(logits, [0])
    assert len(found) == 0


def test_draws_without_temperature_when_a_policy_samples():
    logits = logits_of(6)
    (found,) = Reader(Sampling(seed=1), SIZE, width=SIZE, draws=True, noise_ids=IDS).read(logits, [0])
    score = found.log_q + found.noise
    assert (np.diff(score) <= 0.0).all()
    np.testing.assert_allclose(found.claims, found.log_q)
    assert len(found) == min(SIZE, MAX_DRAWN)
