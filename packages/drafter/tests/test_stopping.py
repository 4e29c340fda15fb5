"""Stopping rules: when each stops, and what it makes of what it is told."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live_trees import successors

from paceline.drafter.live_tree import LiveTree, Successors
from paceline.drafter.stopping import STOPPING_RULES
from paceline.drafter.stopping.acceptance_head import MAX_WEIGHT, REFUSED_WEIGHT, AcceptanceHead, features
from paceline.drafter.stopping.base import StoppingRule, Times
from paceline.drafter.stopping.confidence import Confidence
from paceline.drafter.stopping.cost import Cost
from paceline.drafter.stopping.fixed import Fixed
from paceline.drafter.stopping.svip import Svip
from paceline.drafter.stopping.thompson import MAX_COUNT, Thompson

UNKNOWN = Times()


def extend(tree: LiveTree, claim: float, entropy: float | None = None) -> int:
    """Adds a token with that claim below the last one; node i has depth i."""
    last = len(tree)
    tree.expand(last, successors([0.7, 0.3], claims=[claim, (1 - claim) / 2], entropy=entropy))
    return tree.add(last, 0)


def length(rule: StoppingRule, claims: Sequence[float], times: Times = UNKNOWN, entropy: float | None = None) -> int:
    """How long a draft of tokens with these claims gets: one that is not expanded is its last."""
    tree = LiveTree()
    for claim in claims:
        if rule.stops(tree, extend(tree, claim, entropy), times):
            break
    return len(tree)


def single(claim: float, entropy: float = 1.0) -> LiveTree:
    tree = LiveTree()
    extend(tree, claim, entropy)
    return tree


def test_fixed_drafts_are_that_long() -> None:
    assert [length(Fixed(depth), [0.01] * 9) for depth in (1, 3.0, 8)] == [1, 3, 8]
    assert length(Fixed(), [0.01] * 9) == 5


def test_confidence_stops_at_a_token_that_claims_too_little() -> None:
    claims = [0.9, 0.41, 0.39, 0.9]
    assert length(Confidence(), claims) == 3
    assert length(Confidence(0.5), claims) == 2
    assert length(Confidence(0), [*claims, 0.0, 0.9]) == 6


def test_svip_stops_above_six_tenths_of_a_nat() -> None:
    claims = [0.9] * 4
    assert length(Svip(), claims, entropy=0.59) == 4
    assert length(Svip(), claims, entropy=0.61) == 1
    assert length(Svip(1.0), claims, entropy=6.6) == 4
    assert length(Svip(1.0), claims, entropy=6.7) == 1


def test_svip_asks_of_the_distribution_that_the_token_was_drawn_from() -> None:
    tree = single(0.9, entropy=0.0)
    tree.expand(1, successors([0.5, 0.5], entropy=5.0))
    assert not Svip().stops(tree, 1, UNKNOWN)
    assert Svip().stops(tree, tree.add(1, 1), UNKNOWN)


@pytest.mark.parametrize("accepted", [0.3, 0.6, 0.8, 0.9, 0.97])
@pytest.mark.parametrize("draft_s", [0.01, 0.05, 0.2, 0.5])
def test_cost_settles_where_tokens_come_fastest(accepted: float, draft_s: float) -> None:
    """A step takes a second and the time to draft: lengths follow the times, and times the lengths."""

    def step_s(num: int) -> float:
        return 1.0 + num * draft_s

    def speed(num: int) -> float:
        return sum(accepted**depth for depth in range(num + 1)) / step_s(num)

    best = max(range(1, 61), key=speed)
    for num in (1, 60):
        for _ in range(20):
            num = length(Cost(), [accepted] * 60, Times(draft_s, step_s(num)))
        assert speed(num) > 0.96 * speed(best)


def test_cost_asks_for_more_where_the_tree_promises_much_already() -> None:
    """A token more saves less of a step that brings many."""
    tree, times = LiveTree(), Times(draft_s=0.03, step_s=1.0)
    tree.expand(0, successors([0.6, 0.4], claims=[0.99, 0.3]))
    node, side = tree.add(0, 0), tree.add(0, 1)
    assert not Cost().stops(tree, side, times)
    for _ in range(8):
        tree.expand(node, successors([1.0], claims=[0.99]))
        node = tree.add(node, 0)
    assert Cost().stops(tree, side, times)


def test_cost_with_a_price() -> None:
    times = Times(draft_s=0.1, step_s=1.0)
    lengths = [length(Cost(price), [0.8] * 60, times) for price in (0.1, 0.5, 1.0, 2.0, 100.0)]
    assert lengths == sorted(lengths, reverse=True)
    assert len(set(lengths)) == 5
    assert lengths[-1] == 1


@pytest.mark.parametrize("times", [UNKNOWN, Times(draft_s=9.0), Times(step_s=9.0)])
def test_cost_never_stops_while_a_time_is_unknown(times: Times) -> None:
    assert length(Cost(), [0.01] * 9, times) == 9


def test_acceptance_head_starts_with_the_claims() -> None:
    assert [length(AcceptanceHead(), [claim] * 30) for claim in (0.5, 0.8, 0.9, 0.95)] == [1, 2, 3, 5]
    assert AcceptanceHead().estimate(single(0.9), 1) == pytest.approx(weighted(0.9))


def weighted(acceptance: float) -> float:
    """What minimises the weighted cross-entropy."""
    return acceptance / (acceptance + REFUSED_WEIGHT * (1 - acceptance))


def test_acceptance_head_learns_what_acceptance_depends_on() -> None:
    """All claims are 0.7; what is right 95 times of 100 at low entropy is right 30 times at high entropy."""
    truth = {0.3: 0.95, 4.0: 0.3}
    random, rule = np.random.default_rng(1), AcceptanceHead()
    assert [length(rule, [0.7] * 9, entropy=entropy) for entropy in truth] == [1, 1]
    for _ in range(6000):
        entropy = float(random.choice(list(truth)))
        rule.learn(single(0.7, entropy), 1, bool(random.random() < truth[entropy]))
    for entropy, acceptance in truth.items():
        assert rule.estimate(single(0.7, entropy), 1) == pytest.approx(weighted(acceptance), abs=0.12)
    assert length(rule, [0.7] * 9, entropy=0.3) >= 4
    assert length(rule, [0.7] * 9, entropy=4.0) == 1


def test_acceptance_head_keeps_its_weights_in_bounds_and_forgets() -> None:
    rule = AcceptanceHead()
    for right in (True, False):
        for _ in range(20_000):
            rule.learn(single(0.5), 1, right)
        estimate = rule.estimate(single(0.5), 1)
        assert (estimate > 0.95) == right
        assert (estimate < 0.05) != right


def test_features_say_what_is_known_of_a_node() -> None:
    tree = LiveTree()
    tree.expand(0, successors([0.6, 0.4], claims=[0.5, 0.2], entropy=0.8))
    first, second = tree.add(0, 0), tree.add(0, 1)
    expected = [1.0, math.log(0.6) / 8, math.log(0.5) / 8, 0.1, 0.125, 0.0, math.log(0.6 / 0.4) / 8]
    assert features(tree, first) == pytest.approx(expected)
    assert features(tree, second) == pytest.approx(
        [1.0, math.log(0.4) / 8, math.log(0.2) / 8, 0.1, 0.125, 0.125, 1.0]
    ), "nothing follows the last: it is as far ahead as can be"


@pytest.mark.parametrize(("acceptance", "expected"), [(0.97, 6), (0.05, 1)])
def test_thompson_comes_to_the_right_decision(acceptance: float, expected: int) -> None:
    random, rule = np.random.default_rng(1), Thompson()
    unsure = [length(rule, [0.55] * 6) for _ in range(200)]
    assert len(set(unsure)) > 2, "tries this and that"
    for _ in range(400):
        rule.learn(single(0.55), 1, bool(random.random() < acceptance))
    assert {length(rule, [0.55] * 6) for _ in range(200)} == {expected}
    assert len({length(rule, [0.25] * 6) for _ in range(200)}) > 1, "claims of another kind are still open"


def test_thompson_weighs_times_once_they_are_known() -> None:
    rule = Thompson()
    for trial in range(400):
        rule.learn(single(0.85), 1, trial % 10 > 0)
    lengths = [length(rule, [0.85] * 40, Times(draft_s, 1.0)) for draft_s in (0.001, 0.05, 0.3, 5.0)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] > 20
    assert lengths[-1] == 1


def test_thompson_forgets() -> None:
    rule = Thompson()
    for right, num in ((True, 5000), (False, 3000)):
        for _ in range(num):
            rule.learn(single(0.5), 1, right)
    assert MAX_COUNT < 3000
    assert length(rule, [0.5] * 9) == 1


@pytest.mark.parametrize("name", STOPPING_RULES)
def test_decisions_follow_from_what_a_rule_was_told(name: str) -> None:
    def decisions() -> list[int]:
        rule, random = STOPPING_RULES[name](), np.random.default_rng(5)
        found = []
        for _ in range(60):
            claims = random.random(6).tolist()
            found.append(length(rule, claims, Times(0.1, 1.0), entropy=float(random.random())))
            rule.learn(single(claims[0]), 1, bool(random.random() < 0.5))
        return found

    assert decisions() == decisions()


logs = st.one_of(st.floats(-1e300, 0), st.floats(-5, 0), st.sampled_from([0.0, -math.inf, 1e-9, -1e-320]))
facts = st.tuples(logs, logs, st.floats(0, 1e300) | st.just(0.0), st.booleans(), st.booleans())
durations = st.sampled_from([0.0, 5e-324, 1e-6, 1.0, 1e300])


@pytest.mark.parametrize("name", STOPPING_RULES)
@settings(deadline=None)
@given(st.lists(facts, min_size=1, max_size=20), durations, durations)
def test_no_rule_fails_whatever_it_is_asked_or_told(
    name: str, told: list[tuple[float, float, float, bool, bool]], draft_s: float, step_s: float
) -> None:
    rule, tree = STOPPING_RULES[name](), LiveTree()
    node = 0
    for log_q, claim, entropy, second, right in told:
        known = np.array([-0.5, log_q]), np.zeros(2), np.array([claim, claim])
        tree.expand(node, Successors(np.array([1, 2]), *known, entropy))
        node = tree.add(node, int(second))
        assert rule.stops(tree, node, Times(draft_s, step_s)) in (True, False)
        rule.learn(tree, node, right)
    if isinstance(rule, AcceptanceHead):
        assert all(abs(weight) <= MAX_WEIGHT for weight in rule._weights)
        assert 0 <= rule.estimate(tree, node) <= 1


@pytest.mark.parametrize("name", STOPPING_RULES)
def test_a_draft_of_thousands_of_tokens_is_no_trouble(name: str) -> None:
    rule, tree = STOPPING_RULES[name](), LiveTree()
    for _ in range(2000):
        node = extend(tree, 0.9)
    rule.learn(tree, node, True)
    assert rule.stops(tree, node, Times(0.1, 1.0)) == (name != "confidence")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fixed", 0), ("fixed", 2.5), ("fixed", math.inf), ("confidence", 1.1), ("confidence", -0.1), ("svip", -1),
        ("svip", math.inf), ("acceptance_head", 2), ("thompson", -1), ("cost", 0), ("cost", math.inf),
    ],
)  # fmt: skip
def test_a_parameter_that_makes_no_sense_is_refused_with_its_limit(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"stopping rule {name}: .* must be .*but is {value!r}"):
        STOPPING_RULES[name](value)


@pytest.mark.parametrize("name", STOPPING_RULES)
def test_no_rule_takes_what_is_no_number(name: str) -> None:
    with pytest.raises(ValueError, match="but is nan"):
        STOPPING_RULES[name](math.nan)
