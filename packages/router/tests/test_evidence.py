"""Evidence is sums: whoever adds up a history, in whatever portions, comes to the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from bandits import AB, A, B, learnt
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.router.arms import PLAIN, Arm
from paceline.router.context import NUM_FEATURES
from paceline.router.evidence import FORGOTTEN, MAX_ARMS, Evidence, Observation, merged
from paceline.router.policies import POLICIES
from paceline.router.policies.base import PolicyOptions
from paceline.router.policies.ucb import DiscountedUcb
from paceline.router.reward import MAX_REWARD

ARMS = (PLAIN, A, B, AB)
OBSERVATIONS = st.lists(
    st.builds(
        Observation,
        st.sampled_from(["m", "n"]),
        st.sampled_from(ARMS),
        st.floats(0.0, MAX_REWARD),
        st.floats(0.01, 1.0),
        st.tuples(st.just(1.0), *[st.floats(0.0, 1.0)] * (NUM_FEATURES - 1)),
        st.dictionaries(st.sampled_from(ARMS), st.floats(0.0, MAX_REWARD), max_size=2),
    ),
    min_size=1,
    max_size=8,
)


def same(one: Evidence, other: Evidence) -> bool:
    arms = sorted({*one.rows, *other.rows})
    return one.segments == other.segments and np.allclose(one.of_arms(arms), other.of_arms(arms), rtol=1e-9, atol=1e-9)


def test_each_segment_discounts_all_arms_of_its_model() -> None:
    known = learnt(DiscountedUcb(discount=0.5), [Observation("m", A, 2.0), Observation("m", B, 4.0)])
    assert known.segments == 2
    assert known.of_arms([B, A, PLAIN]).tolist() == [[1.0, 4.0], [0.5, 1.0], [0.0, 0.0]]


def test_models_are_learnt_of_separately() -> None:
    one, two = Evidence.of({A: [1.0, 2.0]}), Evidence.of({A: [1.0, 1.0]})
    both = merged({"one": one}, {"two": two}, 0.5)
    assert same(both["one"], one)
    assert same(both["two"], two)


def test_evidence_is_a_value() -> None:
    first = Evidence.of({A: [1.0, 2.0]})
    first.then(Evidence.of({A: [1.0, 1.0], B: [1.0, 1.0]}), 0.9)
    assert dict(first.rows) == {A: 0}
    assert first.sums.tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("name", POLICIES)
@settings(deadline=None, max_examples=20)
@given(st.data())
def test_portions_make_no_difference(name: str, data: st.DataObject) -> None:
    """Two routers' batches, in the order in which a store takes them, and segment after segment: the same sums."""
    policy = POLICIES[name](PolicyOptions())
    discount = policy.shape.discount
    batches = data.draw(st.lists(OBSERVATIONS, min_size=1, max_size=5))
    stored: dict[str, Evidence] = {}
    one_by_one: dict[str, Evidence] = {}
    for batch in batches:
        delta: dict[str, Evidence] = {}
        for observation in batch:
            one = {observation.model: Evidence.of(policy.evidence(observation))}
            delta = merged(delta, one, discount)
            one_by_one = merged(one_by_one, one, discount)
        stored = merged(stored, delta, discount)
    assert stored.keys() == one_by_one.keys()
    assert all(same(stored[model], one_by_one[model]) for model in stored)


@settings(deadline=None, max_examples=40)
@given(st.lists(OBSERVATIONS, min_size=1, max_size=4), st.randoms())
def test_without_discount_the_order_of_batches_makes_no_difference_either(
    batches: Sequence[Sequence[Observation]], random: object
) -> None:
    policy = DiscountedUcb(discount=1.0)
    portions = [learnt(policy, batch) for batch in batches]
    shuffled = list(portions)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    in_order, in_disorder = Evidence.nothing(2), Evidence.nothing(2)
    for one, other in zip(portions, shuffled, strict=True):
        in_order, in_disorder = in_order.then(one, 1.0), in_disorder.then(other, 1.0)
    assert same(in_order, in_disorder)


def test_arms_that_are_forgotten_leave() -> None:
    policy = DiscountedUcb(discount=0.5)
    known = learnt(policy, [Observation("m", A, 2.0), *[Observation("m", PLAIN, 1.0)] * 30])
    assert FORGOTTEN > 0.5**30
    assert set(known.rows) == {PLAIN}


def test_a_model_has_a_bounded_number_of_arms_and_keeps_those_it_heard_most_of() -> None:
    known = Evidence.nothing(2)
    for number in range(MAX_ARMS + 50):
        known = known.then(Evidence.of({Arm((str(number),)): [1.0, 1.0]}), 0.999)
    assert len(known.rows) == MAX_ARMS
    assert Arm((str(MAX_ARMS + 49),)) in known.rows
    assert Arm(("0",)) not in known.rows
    assert np.all(known.of_arms(list(known.rows))[:, 0] > 0.0)
