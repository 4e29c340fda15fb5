"""Claims corrected by the request's noise, held against the law of the Gumbel-max trick."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.drafter.coupling import coupled
from paceline.drafter.shared_noise import WEIGHT, claims
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
def test_noise_is_evidence_for_one_sibling_against_another(probabilities: list[float], seed: int) -> None:
    noise = gumbel(seed, 0, np.arange(len(probabilities))).tolist()
    found = claims(probabilities, noise)
    for (c, g, claim), (other_c, other_g, other_claim) in itertools.combinations(
        zip(probabilities, noise, found, strict=True), 2
    ):
        assert claim / other_claim == pytest.approx(c / other_c * math.exp(WEIGHT * (g - other_g)))


def test_claims_that_leave_nothing_over_still_leave_nothing() -> None:
    assert sum(claims([0.75, 0.25], [1.0, -1.0])) == pytest.approx(1.0)
    assert sum(claims([0.9, 0.9], [1.0, -1.0])) == pytest.approx(1.0)


@pytest.mark.parametrize("probabilities", [[0.05], [0.3], [0.9], [0.5, 0.2], [0.2, 0.7], [0.05, 0.1]])
def test_claims_are_about_the_probabilities_on_average_over_the_noise(probabilities: list[float]) -> None:
    """All noise, enumerated by its quantiles: what calibration has learned stays true."""
    steps = 100
    quantiles = [-math.log(-math.log((step + 0.5) / steps)) for step in range(steps)]
    total = np.zeros(len(probabilities))
    for noise in itertools.product(quantiles, repeat=len(probabilities)):
        total += claims(probabilities, noise)
    assert total / steps ** len(probabilities) == pytest.approx(probabilities, rel=0.06)


def test_claims_are_the_law_of_a_target_whose_preferences_are_not_known() -> None:
    """Every token of a small vocabulary is a sibling: the claims are the exact law of argmax(log c + WEIGHT g + ε)."""
    c, noise = [0.5, 0.3, 0.15, 0.05], [-0.5, 0.8, 2.5, 0.1]
    unknown = -np.log(-np.log(np.random.default_rng(1).random((200_000, 4))))
    said = (np.log(c) + WEIGHT * np.array(noise) + unknown).argmax(axis=1)
    assert claims(c, noise) == pytest.approx(np.bincount(said, minlength=4) / len(said), abs=0.005)


Outcome = tuple[float, float, bool]  # probability without noise, claim, whether it was said


def outcomes(concentration: float, places: int) -> list[Outcome]:
    """A strategy knows c; the target's own law is spread around it (Dirichlet, the less the greater concentration is),
    and says what its noise says.
    """
    vocabulary = np.arange(20)
    rng = np.random.default_rng(5)
    found = []
    for place in range(places):
        c = np.maximum(rng.dirichlet(np.full(len(vocabulary), 0.08)), 1e-6)
        target = np.log(np.maximum(rng.dirichlet(concentration * c), 1e-300))
        said = int(np.argmax(target + gumbel(3, place, vocabulary)))
        known = np.argsort(-c)[:4]
        claimed = claims(c[known].tolist(), gumbel(3, place, known).tolist())
        found += [(float(c[token]), claim, token == said) for token, claim in zip(known.tolist(), claimed, strict=True)]
    return found


def test_claims_come_true_as_often_as_they_say() -> None:
    """Against targets that are about as unlike the claims as real ones: a calibration curve."""
    found = outcomes(0.6, 3000)
    for low, high in ((0.0, 0.1), (0.1, 0.3), (0.3, 0.5), (0.5, 0.7), (0.7, 1.0)):
        group = [(claim, right) for _, claim, right in found if low <= claim < high]
        assert len(group) > 150
        claimed, right = (sum(values) / len(group) for values in zip(*group, strict=True))
        assert right == pytest.approx(claimed, abs=0.04)


@pytest.mark.parametrize("concentration", [0.3, 1.0, 3.0, 1000.0])
def test_claims_that_know_the_noise_say_more(concentration: float) -> None:
    """Likelihood of what happened, with the noise and without; more so the better the strategy knows the target."""
    found = outcomes(concentration, 2000)
    without = sum(math.log(c if right else 1 - c) for c, _, right in found)
    informed = sum(math.log(claim if right else 1 - claim) for _, claim, right in found)
    assert informed > without
