"""What a drafter's confidence is worth, learnt from what happened."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.verifier import calibration as module
from paceline.verifier.calibration import MAX_CLAIM, MEMORY, Calibration
from paceline.verifier.trie import Node, Source

A, B = Source("a", "x"), Source("b", "x")


def node(**claims: float) -> Node:
    sources = {"a": A, "b": B}
    return Node(0, None, proposals={sources[name]: math.log(claim) for name, claim in claims.items()})


def teach(calibration: Calibration, candidate: Node, rate: float, times: int, seed: int = 0) -> None:
    rng = random.Random(seed)
    for _ in range(times):
        calibration.observe(candidate, rng.random() < rate)


@given(st.floats(0.001, 1.0))
def test_before_anything_is_known_a_claim_is_believed_but_never_as_certainty(claim):
    assert Calibration().probability(node(a=claim)) == pytest.approx(min(claim, MAX_CLAIM))


@pytest.mark.parametrize(("claim", "rate"), [(0.9, 0.1), (0.2, 0.8), (0.5, 0.5), (1.0, 0.0)])
def test_converges_to_the_true_rate_whatever_is_claimed(claim, rate):
    calibration = Calibration()
    teach(calibration, node(a=claim), rate, 2000)
    assert calibration.probability(node(a=claim)) == pytest.approx(rate, abs=0.1)


def test_follows_a_drafter_that_changes():
    calibration = Calibration()
    teach(calibration, node(a=0.8), 0.9, 5000)
    teach(calibration, node(a=0.8), 0.1, int(4 * MEMORY))
    assert calibration.probability(node(a=0.8)) == pytest.approx(0.1, abs=0.1)


def test_claims_of_different_height_and_sources_are_learnt_apart():
    calibration = Calibration()
    teach(calibration, node(a=0.9), 0.2, 500)
    assert calibration.probability(node(a=0.2)) == pytest.approx(0.2)
    assert calibration.probability(node(b=0.9)) == pytest.approx(0.9)


def test_two_that_agree_are_learnt_apart_from_each_alone_and_the_most_credible_counts():
    calibration = Calibration()
    teach(calibration, node(a=0.5), 0.3, 500)
    teach(calibration, node(a=0.5, b=0.1), 0.9, 500)
    assert calibration.probability(node(a=0.5)) == pytest.approx(0.3, abs=0.1)
    assert calibration.probability(node(a=0.5, b=0.1)) == pytest.approx(0.9, abs=0.1)
    assert Calibration().probability(node(a=0.5, b=0.1)) == pytest.approx(0.5)


@given(st.lists(st.tuples(st.floats(-1e30, 0.0), st.booleans()), max_size=60))
def test_any_claim_gives_a_probability(seen):
    calibration = Calibration()
    for log_confidence, right in seen:
        candidate = Node(0, None, proposals={A: log_confidence})
        calibration.observe(candidate, right)
        assert 0.0 <= calibration.probability(candidate) <= 1.0


def test_a_node_that_nobody_stands_for_any_more_is_worth_nothing():
    assert Calibration().probability(Node(0, None)) == 0.0


def test_memory_is_bounded_when_names_keep_coming(monkeypatch):
    monkeypatch.setattr(module, "MAX_KEYS", 10)
    calibration = Calibration()
    for number in range(100):
        calibration.observe(Node(0, None, proposals={Source(str(number), "x"): -0.1}), True)
    assert len(calibration._counts) == 10
