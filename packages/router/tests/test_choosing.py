"""Arms, rewards and policies: what can be chosen, what a segment was worth, and what is chosen then."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.router.arms import MAX_ARMS_WITH_PAIRS, PLAIN, Arm, arm_of, arms_for
from paceline.router.attribution import Attribution
from paceline.router.policies import POLICIES
from paceline.router.policies.base import Policy, PolicyOptions, Situation
from paceline.router.policies.fixed import Fixed
from paceline.router.policies.ucb import DiscountedUcb
from paceline.router.reward import MAX_REWARD, reward_of
from paceline.router.statistics import Observation, Statistics
from paceline.router.wish import Wish

MODEL = "m"
A, B, AB = Arm(("a",)), Arm(("b",)), Arm(("a", "b"))
NAMES = st.lists(st.text(min_size=1, max_size=5), max_size=20)


def play(
    policy: Policy,
    arms: Sequence[Arm],
    speed: Callable[[Arm, int], float],
    num_segments: int,
    known: Statistics | None = None,
) -> tuple[Counter[Arm], Statistics]:
    """How often each arm was chosen when segments earn `speed(arm, index)`, and what was learnt."""
    known = known or Statistics()
    chosen: Counter[Arm] = Counter()
    for index in range(num_segments):
        arm = policy.choose(Situation(arms, known.of(MODEL), {}))
        chosen[arm] += 1
        known = known.learn(Observation(MODEL, arm, speed(arm, index)), policy.discount)
    return chosen, known


# Arms


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], ["none"]),
        (["a"], ["none", "a"]),
        (["b", "a", "b"], ["none", "a", "b", "a+b"]),
        (["a", "b", "c"], ["none", "a", "b", "c", "a+b", "a+c", "b+c", "a+b+c"]),
        (["a", "b", "c", "d"], ["none", "a", "b", "c", "d", "a+b+c+d"]),
    ],
)
def test_arms_are_none_each_all_and_pairs_while_there_are_few(names: list[str], expected: list[str]) -> None:
    assert [str(arm) for arm in arms_for(names)] == expected


@given(NAMES)
def test_arms_are_distinct_bounded_and_the_same_in_whatever_order_drafters_come(names: list[str]) -> None:
    arms = arms_for(names)
    assert arms[0] == PLAIN
    assert len(set(arms)) == len(arms) <= max(MAX_ARMS_WITH_PAIRS, 18)
    assert arms_for(reversed(names)) == arms
    assert {name for arm in arms for name in arm.drafters} <= set(names)


@given(NAMES, st.integers(0, 99))
def test_an_arms_text_brings_back_the_arm(names: list[str], max_nodes: int) -> None:
    arm = Arm(arm_of(names).drafters, max_nodes)
    assert Arm.from_text(arm.to_text()) == arm


@pytest.mark.parametrize("text", ["", "[]", '{"drafters":["b","a"],"max_nodes":0}', '{"drafters":[1],"max_nodes":0}'])
def test_text_that_is_no_arm_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the kind is the promise; json's and ours say it differently
        Arm.from_text(text)


# Reward


def test_the_reward_is_speed_relative_to_plain_decoding_waiting_included() -> None:
    assert reward_of(64, verify_s=1.0, wait_s=0.0, plain_s=2.0) == 2.0
    assert reward_of(64, verify_s=1.0, wait_s=1.0, plain_s=2.0) == 1.0
    assert reward_of(64, verify_s=4.0, wait_s=0.0, plain_s=2.0) == 0.5
    assert reward_of(64, verify_s=0.001, wait_s=0.0, plain_s=2.0) == MAX_REWARD


def test_a_segment_that_says_nothing_has_no_reward() -> None:
    assert reward_of(0, 1.0, 0.0, 1.0) is None
    assert reward_of(5, 0.0, 0.0, 0.0) is None
    assert reward_of(5, math.nan, 0.0, 1.0) is None
    assert reward_of(5, 1.0, 0.0, math.inf) is None


@given(st.integers(), st.floats(), st.floats(), st.floats())
def test_no_report_however_wrong_is_worth_more_than_the_bound(
    tokens: int, verify_s: float, wait_s: float, plain_s: float
) -> None:
    reward = reward_of(tokens, verify_s, wait_s, plain_s)
    assert reward is None or 0.0 <= reward <= MAX_REWARD


def test_a_segment_counts_for_the_arm_that_served_most_of_it_and_a_mixture_for_none() -> None:
    attribution = Attribution(A, segment_tokens=64)
    attribution.committed(4)
    attribution.changed(B)
    attribution.committed(60)
    assert attribution.segment_ended() == B
    attribution.committed(40)
    attribution.changed(A)
    assert attribution.segment_ended() is None
    attribution.committed(64)
    assert attribution.segment_ended() == A


def test_a_client_teaches_only_about_arms_the_router_could_choose_itself() -> None:
    connected = {"1": "a", "2": "b"}
    assert Wish(off=True).teaches(PLAIN, connected)
    assert Wish(drafters=("1",)).teaches(A, connected)
    assert not Wish(drafters=("c",)).teaches(Arm(("c",)), connected)
    assert not Wish(drafters=("a",), max_nodes=3).teaches(A, connected)
    assert not Wish().teaches(A, {"2": "b"})


# Policies


def test_ucb_tries_each_arm_once_before_any_arm_twice() -> None:
    arms = arms_for("abc")
    chosen, _ = play(DiscountedUcb(), arms, lambda _arm, _index: 1.0, len(arms))
    assert set(chosen.values()) == {1}


def test_ucb_finds_the_better_arm_under_noise() -> None:
    noise = random.Random(1)
    means = {PLAIN: 1.0, A: 1.3, B: 2.0, AB: 1.7}
    chosen, _ = play(DiscountedUcb(), list(means), lambda arm, _index: noise.gauss(means[arm], 0.2), 600)
    assert chosen[B] > 0.6 * 600


@pytest.mark.parametrize("means", [(1.0, 1.5), (1.0, 0.6), (1.0, 1.3, 2.0, 1.7), (1.0, 1.9, 1.97, 2.3)])
def test_once_it_has_learnt_ucb_takes_the_best_arm_more_than_four_times_in_five(means: tuple[float, ...]) -> None:
    noise = random.Random(3)
    by_arm = dict(zip((PLAIN, A, B, AB), means, strict=False))

    def speed(arm: Arm, _index: int) -> float:
        return max(0.0, noise.gauss(by_arm[arm], 0.2))

    _, known = play(DiscountedUcb(), list(by_arm), speed, 600)
    chosen, _ = play(DiscountedUcb(), list(by_arm), speed, 600, known)
    assert chosen[max(by_arm, key=lambda arm: by_arm[arm])] > 0.8 * 600


def test_none_wins_where_speculation_loses() -> None:
    noise = random.Random(2)
    means = {PLAIN: 1.0, A: 0.6, B: 0.5, AB: 0.4}
    chosen, _ = play(DiscountedUcb(), list(means), lambda arm, _index: noise.gauss(means[arm], 0.05), 600)
    assert chosen[PLAIN] > 0.6 * 600


def test_ucb_follows_drift() -> None:
    policy, arms = DiscountedUcb(), [PLAIN, A, B]
    before = {PLAIN: 1.0, A: 2.0, B: 0.5}
    after = {PLAIN: 1.0, A: 1.2, B: 2.5}  # A is still worth it, so only curiosity finds B
    first, known = play(policy, arms, lambda arm, _index: before[arm], 300)
    assert first.most_common(1)[0][0] == A
    _, known = play(policy, arms, lambda arm, _index: after[arm], 150, known)
    last, _ = play(policy, arms, lambda arm, _index: after[arm], 200, known)
    assert last[B] > 0.6 * 200


def test_ucb_tries_a_bad_arm_again_now_and_then() -> None:
    policy, arms = DiscountedUcb(), [PLAIN, A]
    _, known = play(policy, arms, lambda arm, _index: 2.0 if arm == A else 1.0, 200)
    later, _ = play(policy, arms, lambda arm, _index: 2.0 if arm == A else 1.0, 300, known)
    assert 0 < later[PLAIN] < 100


def test_an_arm_that_left_is_not_chosen_however_good_it_was_and_its_sums_wait_for_its_return() -> None:
    policy = DiscountedUcb()
    _, known = play(policy, [PLAIN, A], lambda arm, _index: 3.0 if arm == A else 1.0, 100)
    without, known = play(policy, [PLAIN], lambda _arm, _index: 1.0, 20, known)
    assert without == {PLAIN: 20}
    assert policy.choose(Situation([PLAIN, A], known.of(MODEL), {})) == A


def test_ucb_decides_ties_always_alike() -> None:
    policy = DiscountedUcb()
    situation = Situation([PLAIN, A, B], {}, {})
    assert [policy.choose(situation) for _ in range(5)] == [PLAIN] * 5


def test_requests_that_start_together_try_different_arms() -> None:
    policy, pending = DiscountedUcb(), Counter[Arm]()
    for _ in range(4):
        pending[policy.choose(Situation([PLAIN, A, B, AB], {}, pending))] += 1
    assert set(pending.values()) == {1}


def test_models_are_learnt_of_separately() -> None:
    known = Statistics().learn(Observation("one", A, 2.0), 0.5).learn(Observation("two", A, 1.0), 0.5)
    assert known.of("one")[A].pulls == 1.0
    assert known.of("one")[A].mean == 2.0
    assert known.of("two")[A].mean == 1.0


def test_each_segment_discounts_all_arms_of_its_model() -> None:
    known = Statistics().learn(Observation(MODEL, A, 2.0), 0.5).learn(Observation(MODEL, B, 4.0), 0.5)
    stats = known.of(MODEL)
    assert (stats[A].pulls, stats[A].reward_sum) == (0.5, 1.0)
    assert (stats[B].pulls, stats[B].reward_sum) == (1.0, 4.0)


def test_fixed_takes_what_is_configured_as_far_as_it_is_there() -> None:
    situation = Situation(arms_for("ab"), {}, {})
    assert Fixed().choose(situation) == AB
    assert Fixed(()).choose(situation) == PLAIN
    assert Fixed(("b", "c")).choose(situation) == B


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_chooses_among_what_there_is_from_nothing_and_reports_a_bonus(name: str) -> None:
    policy = POLICIES[name](PolicyOptions())
    for names in ("", "a", "abcdefgh"):
        situation = Situation(arms_for(names), {}, {})
        assert policy.choose(situation) in situation.arms
        assert all(policy.bonus(arm, situation) >= 0.0 for arm in situation.arms)
