"""A drafter nobody knows gets some of the requests."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from bandits import MODEL, A, B, learnt

from paceline.router.arms import PLAIN, Arm, arms_for
from paceline.router.context import NEUTRAL
from paceline.router.evidence import Evidence, Observation
from paceline.router.policies import POLICIES
from paceline.router.policies.base import Policy, PolicyOptions
from paceline.router.policies.epsilon import Epsilon
from paceline.router.policies.fixed import Fixed
from paceline.router.policies.ucb import DiscountedUcb
from paceline.router.probation import ENOUGH, SHARE, decide, on_probation

NEW = Arm(("new",))
ARMS = (PLAIN, A, NEW, Arm(("a", "new")))


def known_to(policy: Policy, segments: int = 200) -> Evidence:
    """Of plain decoding and `a`, which is better; nothing of `new`."""
    return learnt(policy, [Observation(MODEL, (PLAIN, A)[n % 2], (1.0, 1.5)[n % 2], 0.5) for n in range(segments)])


def decisions(policy: Policy, known: Evidence, count: int = 1000) -> Counter[Arm]:
    draw = np.random.default_rng(0)
    return Counter(decide(policy, known, ARMS, np.zeros(len(ARMS)), NEUTRAL, draw).arm for _ in range(count))


@pytest.mark.parametrize("name", [name for name in POLICIES if name != "fixed"])
def test_an_unknown_drafter_gets_at_most_its_share_while_nobody_reports_on_it(name: str) -> None:
    policy = POLICIES[name](PolicyOptions())
    chosen = decisions(policy, known_to(policy))
    assert chosen[NEW] + chosen[ARMS[3]] <= 1000 * SHARE * 1.3


def test_it_is_chosen_freely_once_it_is_known() -> None:
    policy = DiscountedUcb(discount=1.0)
    known = learnt(policy, [Observation(MODEL, NEW, 2.0)] * int(ENOUGH), known_to(policy))
    assert on_probation(known, ARMS) == frozenset()
    assert decisions(policy, known)[ARMS[3]] == 1000  # its arm with `a` was never tried


def test_while_a_model_is_new_nobody_is_on_probation() -> None:
    policy = DiscountedUcb(discount=1.0)
    assert on_probation(known_to(policy, 20), ARMS) == frozenset()
    assert on_probation(known_to(policy), ARMS) == {"new"}


def test_the_probability_that_is_told_counts_how_rarely_it_is_offered() -> None:
    policy = Epsilon(discount=1.0)
    known, draw = known_to(policy), np.random.default_rng(1)
    made = [decide(policy, known, ARMS, np.zeros(len(ARMS)), NEUTRAL, draw) for _ in range(3000)]
    estimate = {arm: sum(1 / one.probability for one in made if one.arm == arm) / 3000 for arm in ARMS}
    assert estimate == pytest.approx(dict.fromkeys(ARMS, 1.0), rel=0.35)


def test_fixed_takes_a_new_drafter_at_once() -> None:
    policy = Fixed(("new",))
    assert decisions(policy, known_to(policy)) == {NEW: 1000}


def test_plain_decoding_is_always_offered() -> None:
    arms = arms_for(["x", "y"])
    policy = DiscountedUcb(discount=1.0)
    known = learnt(policy, [Observation(MODEL, B, 1.0)] * 100)
    draw = np.random.default_rng(0)
    made = Counter(decide(policy, known, arms, np.zeros(len(arms)), NEUTRAL, draw).arm for _ in range(100))
    assert made[PLAIN] > 80
