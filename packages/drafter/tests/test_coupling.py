"""Claims corrected by the request's noise, held against the law of the Gumbel-max trick."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.drafter.coupling import coupled
from paceline.drafter.shared_noise import TRUST, claims
from paceline.drafter.strategies.base import ROOT, Candidates, Sampling
from paceline.wire.noise import gumbel

WARM = Sampling(temperature=0.8, seed=11)
shares = st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=6)


@st.composite
def trees(draw: st.DrawFn) -> Candidates:
    tree = Candidates()
    for node in range(draw(st.integers(1, 12))):
        # The node's index makes tokens differ, as siblings' must.
        tree.add(node, draw(st.integers(ROOT, node - 1)), draw(st.floats(1e-6, 1.0)), draw(st.integers(0, 3)))
    return tree


@given(trees(), st.integers(1, 1000))
def test_at_temperature_0_a_tree_stays_as_it_is(tree: Candidates, length: int) -> None:
    assert coupled(tree, Sampling(seed=7), length) is tree


@given(trees(), st.integers(1, 1000), st.integers(0, 2**64 - 1))
def test_siblings_share_one_probability_and_nothing_else_changes(tree: Candidates, length: int, seed: int) -> None:
    before = list(tree.confidence)
    found = coupled(tree, Sampling(temperature=1.0, seed=seed), length)
    assert (found.tokens, found.parents, found.bins) == (tree.tokens, tree.parents, tree.bins)
    assert tree.confidence == before
    assert all(0.0 < claim <= 1.0 for claim in found.confidence)
    together: dict[int, float] = {}
    for parent, claim in zip(found.parents, found.confidence, strict=True):
        together[parent] = together.get(parent, 0.0) + claim
    assert all(total <= 1.0 + 1e-9 for total in together.values())


def test_noise_is_that_of_the_position_where_a_node_would_stand() -> None:
    tree = Candidates()
    first = tree.add(5, ROOT, 0.5, 0)
    tree.add(6, ROOT, 0.25, 0)
    second = tree.add(7, first, 0.6, 0)
    tree.add(8, second, 0.3, 0)
    found = coupled(tree, WARM, 100).confidence
    noise = {
        token: float(gumbel(WARM.seed, position, np.array([token]))[0])
        for token, position in ((5, 100), (6, 100), (7, 101), (8, 102))
    }
    assert found[:2] == pytest.approx(claims([0.5, 0.25], [noise[5], noise[6]]))
    assert found[2:] == pytest.approx([*claims([0.6], [noise[7]]), *claims([0.3], [noise[8]])])


@given(shares, st.integers(0, 1000))
def test_only_the_sibling_that_comes_out_highest_gains(probabilities: list[float], seed: int) -> None:
    noise = gumbel(seed, 0, np.arange(len(probabilities))).tolist()
    found = claims(probabilities, noise)
    scale = max(1.0, math.fsum(probabilities))
    scores = [math.log(share) + g for share, g in zip(probabilities, noise, strict=True)]
    for place, (claim, share) in enumerate(zip(found, probabilities, strict=True)):
        if scores[place] < max(scores):
            assert claim == pytest.approx((1 - TRUST) * share / scale)
        else:
            assert claim >= (1 - TRUST) * share / scale


@pytest.mark.parametrize("trust", [1.0, TRUST])
@pytest.mark.parametrize("probabilities", [[0.3], [0.5, 0.2], [0.2, 0.7]])
def test_claims_are_the_probabilities_on_average_over_the_noise(probabilities: list[float], trust: float) -> None:
    """All noise, enumerated by its quantiles: e^-g has the exponential law."""
    steps = 200
    quantiles = [-math.log(-math.log((step + 0.5) / steps)) for step in range(steps)]
    total = np.zeros(len(probabilities))
    for noise in itertools.product(quantiles, repeat=len(probabilities)):
        total += claims(probabilities, noise, trust)
    assert total / steps ** len(probabilities) == pytest.approx(probabilities, abs=4e-3)


@given(st.lists(st.floats(0.01, 0.3), min_size=1, max_size=3), st.floats(-3.0, 5.0))
def test_the_tokens_that_are_not_proposed_are_beaten_with_the_product_of_their_chances(
    unknown: list[float], g: float
) -> None:
    """P(all below the best score) over each unknown token, against the closed form for all of them together."""
    known = 1.0 - math.fsum(unknown)
    score = math.log(known) + g
    every = math.prod(math.exp(-math.exp(math.log(share) - score)) for share in unknown)
    assert claims([known], [g], trust=1.0)[0] == pytest.approx(every)


def outcomes(decided: float, trust: float, places: int) -> list[tuple[float, bool]]:
    """Claims and whether they came true, where a share `decided` of places can be nothing but one of the tokens."""
    vocabulary = np.arange(40)
    rng = np.random.default_rng(5)
    found = []
    for place in range(places):
        p = rng.dirichlet(np.full(len(vocabulary), 0.2))
        known = np.argsort(-p)[:4]
        law = p
        if rng.random() < decided:
            law = np.full(len(vocabulary), 1e-12)
            law[rng.choice(len(vocabulary), p=p)] = 1.0
        said = int(np.argmax(np.log(law) + gumbel(3, place, vocabulary)))
        noise = gumbel(3, place, known).tolist()
        claimed = claims(p[known].tolist(), noise, trust)
        found += [(claim, token == said) for token, claim in zip(known.tolist(), claimed, strict=True)]
    return found


@pytest.mark.parametrize("decided", [0.0, 1 - TRUST, 1.0])
def test_claims_come_true_as_often_as_they_say(decided: float) -> None:
    found = outcomes(decided, 1.0 - decided, 3000)
    for low in (0.0, 0.1, 0.2, 0.4, 0.6, 0.8):
        high = {0.0: 0.1, 0.1: 0.2}.get(low, low + 0.2)
        group = [(claim, right) for claim, right in found if low <= claim <= high]
        if len(group) < 100:
            continue
        claimed = sum(claim for claim, _ in group) / len(group)
        right = sum(right for _, right in group) / len(group)
        assert right == pytest.approx(claimed, abs=4.5 * math.sqrt(claimed * (1 - claimed) / len(group)) + 1e-3)


def test_claims_that_know_the_noise_say_more() -> None:
    """Likelihood of what happened, with the noise and without."""

    def log_likelihood(trust: float) -> float:
        return sum(math.log(claim if right else 1 - claim) for claim, right in outcomes(0.0, trust, 1000))

    assert log_likelihood(0.99) > log_likelihood(TRUST) > log_likelihood(0.0)
