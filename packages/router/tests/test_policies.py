"""What policies choose, from nothing and after they have learnt."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from bandits import AB, MODEL, A, B, counts, learnt, play, situation
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.router.arms import PLAIN, Arm, arms_for
from paceline.router.context import NEUTRAL, NUM_FEATURES
from paceline.router.evidence import Evidence, Observation
from paceline.router.policies import POLICIES, linucb
from paceline.router.policies.base import Policy, PolicyOptions
from paceline.router.policies.epsilon import Epsilon
from paceline.router.policies.exp3 import Exp3
from paceline.router.policies.fixed import Fixed
from paceline.router.policies.hedge import Hedge
from paceline.router.policies.linucb import LinUcb
from paceline.router.policies.thompson import Thompson
from paceline.router.policies.ucb import DiscountedUcb

LEARNING = [name for name in POLICIES if name != "fixed"]
DRAW = np.random.default_rng(0)


def make(name: str) -> Policy:
    return POLICIES[name](PolicyOptions())


def noisy(means: dict[Arm, float], seed: int = 1, deviation: float = 0.2) -> Callable[[Arm, int], float]:
    noise = random.Random(seed)
    return lambda arm, _index: max(0.0, noise.gauss(means[arm], deviation))


# All of them


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_chooses_among_what_there_is_from_nothing_and_reports_a_bonus(name: str) -> None:
    policy = make(name)
    for names in ("", "a", "abcdefgh"):
        now = situation(policy, arms_for(names))
        decision = policy.choose(now, DRAW)
        assert decision.arm in now.arms
        assert 0.0 <= decision.probability <= 1.0
        assert np.all(policy.bonuses(now) >= 0.0)


@pytest.mark.parametrize("name", POLICIES)
def test_the_same_situation_and_draws_give_the_same_decision(name: str) -> None:
    policy = make(name)
    _, known = play(policy, arms_for("abc"), noisy({arm: 1.0 + 0.1 * len(str(arm)) for arm in arms_for("abc")}), 50)
    now = situation(policy, arms_for("abc"), known)
    decisions = [policy.choose(now, np.random.default_rng(seed)) for seed in (*range(9), *range(9))]
    assert decisions[:9] == decisions[9:]


@pytest.mark.parametrize("name", POLICIES)
def test_evidence_has_its_width_begins_with_weight_and_reward_and_is_finite(name: str) -> None:
    policy = make(name)
    context = tuple(np.linspace(1.0, 0.0, NUM_FEATURES))
    for observation in (Observation(MODEL, A, 1.5), Observation(MODEL, A, 1.5, 1e-6, context)):
        (vector,) = policy.evidence(observation).values()
        assert len(vector) == policy.shape.width
        assert tuple(vector[:2]) == (1.0, 1.5)
        assert np.all(np.isfinite(vector))


@pytest.mark.parametrize("name", [name for name in LEARNING if name != "exp3"])
def test_none_wins_where_speculation_loses(name: str) -> None:
    means = {PLAIN: 1.0, A: 0.6, B: 0.5, AB: 0.4}
    decisions, _ = play(make(name), list(means), noisy(means, 2, 0.05), 600)
    assert counts(decisions)[PLAIN] > 0.6 * 600


@pytest.mark.parametrize("name", LEARNING)
def test_the_better_arm_is_found_under_noise(name: str) -> None:
    means = {PLAIN: 1.0, A: 1.3, B: 2.0, AB: 1.6}
    decisions, _ = play(make(name), list(means), noisy(means), 800)
    later = counts(decisions[300:])
    assert later.most_common(1)[0][0] == B
    assert later[B] > (0.4 if name == "exp3" else 0.7) * 500


@pytest.mark.parametrize("name", LEARNING)
def test_drift_is_followed(name: str) -> None:
    before, after = {PLAIN: 1.0, A: 2.0, B: 0.5}, {PLAIN: 1.0, A: 0.8, B: 2.5}
    first, known = play(make(name), list(before), noisy(before), 300)
    _, known = play(make(name), list(after), noisy(after, 2), 500, known, seed=1)
    last, _ = play(make(name), list(after), noisy(after, 3), 200, known, seed=2)
    assert counts(first[100:]).most_common(1)[0][0] == A
    assert counts(last).most_common(1)[0][0] == B


@pytest.mark.parametrize("name", ["exp3", "hedge", "epsilon"])
def test_the_probability_that_is_told_is_that_of_the_draw(name: str) -> None:
    policy, arms = make(name), [PLAIN, A, B]
    _, known = play(policy, arms, noisy({PLAIN: 1.0, A: 1.02, B: 0.98}), 20)
    now = situation(policy, arms, known)
    draw = np.random.default_rng(5)
    decisions = [policy.choose(now, draw) for _ in range(4000)]
    told = {decision.arm: decision.probability for decision in decisions}
    assert sum(told.values()) == pytest.approx(1.0)
    for arm, count in counts(decisions).items():
        assert count / 4000 == pytest.approx(told[arm], abs=0.04)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0.0, 8.0), min_size=1, max_size=12), st.sampled_from(LEARNING))
def test_whatever_rewards_come_a_choice_is_made(rewards: list[float], name: str) -> None:
    policy, arms = make(name), [PLAIN, A, B]
    decisions, known = play(policy, arms, lambda _arm, index: rewards[index], len(rewards))
    assert all(decision.arm in arms for decision in decisions)
    assert np.all(np.isfinite(known.sums))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(-1e15, 1e15), min_size=80, max_size=80), st.sampled_from(LEARNING), st.floats(0.0, 1e15))
def test_sums_that_no_history_has_lead_to_a_choice_all_the_same(numbers: list[float], name: str, weight: float) -> None:
    """A store that others write to may hold anything."""
    policy = make(name)
    width = policy.shape.width
    strange = Evidence.of({A: [weight, *numbers[: width - 1]], B: [weight, *[0.0] * (width - 1)]})
    now = situation(policy, [PLAIN, A, B], strange)
    with np.errstate(all="ignore"):
        assert policy.choose(now, np.random.default_rng(0)).arm in now.arms


# Upper confidence bounds


def test_ucb_tries_each_arm_once_before_any_arm_twice() -> None:
    arms = arms_for("abc")
    decisions, _ = play(DiscountedUcb(), arms, lambda _arm, _index: 1.0, len(arms))
    assert set(counts(decisions).values()) == {1}


@pytest.mark.parametrize("means", [(1.0, 1.5), (1.0, 0.6), (1.0, 1.3, 2.0, 1.7), (1.0, 1.9, 1.97, 2.3)])
@pytest.mark.parametrize("name", ["ucb", "linucb"])
def test_once_it_has_learnt_it_takes_the_best_arm_more_than_four_times_in_five(
    name: str, means: tuple[float, ...]
) -> None:
    by_arm = dict(zip((PLAIN, A, B, AB), means, strict=False))
    speed = noisy(by_arm, 3)
    _, known = play(make(name), list(by_arm), speed, 600)
    decisions, _ = play(make(name), list(by_arm), speed, 600, known)
    assert counts(decisions)[max(by_arm, key=lambda arm: by_arm[arm])] > 0.8 * 600


def test_ucb_follows_drift_that_only_curiosity_finds() -> None:
    before = {PLAIN: 1.0, A: 2.0, B: 0.5}
    after = {PLAIN: 1.0, A: 1.2, B: 2.5}  # A is still worth it
    policy, arms = DiscountedUcb(), [PLAIN, A, B]
    first, known = play(policy, arms, lambda arm, _index: before[arm], 300)
    assert counts(first).most_common(1)[0][0] == A
    _, known = play(policy, arms, lambda arm, _index: after[arm], 150, known)
    last, _ = play(policy, arms, lambda arm, _index: after[arm], 200, known)
    assert counts(last)[B] > 0.6 * 200


def test_ucb_tries_a_bad_arm_again_now_and_then() -> None:
    policy, arms = DiscountedUcb(), [PLAIN, A]
    _, known = play(policy, arms, lambda arm, _index: 2.0 if arm == A else 1.0, 200)
    later, _ = play(policy, arms, lambda arm, _index: 2.0 if arm == A else 1.0, 300, known)
    assert 0 < counts(later)[PLAIN] < 100


def test_an_arm_that_left_is_not_chosen_however_good_it_was_and_its_sums_wait_for_its_return() -> None:
    policy = DiscountedUcb()
    _, known = play(policy, [PLAIN, A], lambda arm, _index: 3.0 if arm == A else 1.0, 100)
    without, known = play(policy, [PLAIN], lambda _arm, _index: 1.0, 20, known)
    assert counts(without) == {PLAIN: 20}
    assert policy.choose(situation(policy, [PLAIN, A], known), DRAW).arm == A


def test_ucb_decides_ties_always_alike() -> None:
    policy = DiscountedUcb()
    now = situation(policy, [PLAIN, A, B])
    assert [policy.choose(now, DRAW).arm for _ in range(5)] == [PLAIN] * 5


def test_requests_that_start_together_try_different_arms() -> None:
    policy, pending = DiscountedUcb(), Counter[Arm]()
    for _ in range(4):
        pending[policy.choose(situation(policy, [PLAIN, A, B, AB], None, pending), DRAW).arm] += 1
    assert set(pending.values()) == {1}


def test_an_arm_that_was_not_tried_has_an_infinite_bonus() -> None:
    policy = DiscountedUcb()
    known = learnt(policy, [Observation(MODEL, A, 2.0)])
    bonuses = policy.bonuses(situation(policy, [A, B], known))
    assert math.isfinite(bonuses[0])
    assert math.isinf(bonuses[1])


# The prompt's features

CODE = (1.0, 0.2, 0.0, 0.1, 0.9, 0.1, 0.0, 0.2, 0.0, 0.0)
PROSE = (1.0, 0.6, 1.0, 0.1, 0.05, 0.02, 0.1, 0.1, 1.0, 0.3)


def test_linucb_learns_which_arm_for_which_prompt() -> None:
    means = {CODE: {PLAIN: 1.0, A: 2.0, B: 0.7}, PROSE: {PLAIN: 1.0, A: 0.7, B: 1.8}}
    noise = random.Random(4)

    def context(index: int) -> tuple[float, ...]:
        return (CODE, PROSE)[index // 3 % 2]

    decisions, _ = play(
        LinUcb(), [PLAIN, A, B], lambda arm, index: noise.gauss(means[context(index)][arm], 0.2), 600, context=context
    )
    later = [(decision.arm, context(index)) for index, decision in enumerate(decisions) if index >= 200]
    assert sum(arm == (A if kind == CODE else B) for arm, kind in later) > 0.85 * len(later)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.integers(0, 2**31))
def test_linucb_predicts_what_a_ridge_regression_of_the_weighted_segments_does(num_segments: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    policy = LinUcb(discount=0.9, exploration=1.0, penalty=2.0)
    contexts = np.concatenate([np.ones((num_segments, 1)), draw.random((num_segments, NUM_FEATURES - 1))], axis=1)
    rewards = draw.random(num_segments) * 3.0
    seen = [Observation(MODEL, A, r, 1.0, tuple(x)) for r, x in zip(rewards.tolist(), contexts.tolist(), strict=True)]
    weights = 0.9 ** np.arange(num_segments - 1, -1, -1)
    ridge = np.diag([0.2] + [2.0] * (NUM_FEATURES - 1))
    a = ridge + np.einsum("n,ni,nj->ij", weights, contexts, contexts)
    theta = np.linalg.solve(a, ridge[0] + np.einsum("n,n,ni->i", weights, rewards, contexts))
    x = np.array([1.0, *draw.random(NUM_FEATURES - 1)])
    now = situation(policy, [PLAIN, A], learnt(policy, seen), context=tuple(x.tolist()))
    speeds, deviations = policy._predict(now)
    assert speeds[1] == pytest.approx(theta @ x)
    residual = np.sum(weights * (rewards - contexts @ theta) ** 2)
    scatter = math.sqrt((8.0 * 0.3**2 + residual) / (8.0 + weights.sum()))
    assert deviations[1] == pytest.approx(scatter * math.sqrt(x @ np.linalg.solve(a, x)))
    assert speeds[0] == pytest.approx(1.0)


def test_a_running_segment_counts_as_one_more_like_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linucb, "_deviation", lambda *_sums: 1.0)  # that of what has reported, and nothing else
    policy = LinUcb(discount=1.0)
    seen = [Observation(MODEL, A, 1.5, 1.0, CODE)] * 3
    running = policy.bonuses(situation(policy, [A], learnt(policy, seen), {A: 2}, CODE))
    done = policy.bonuses(situation(policy, [A], learnt(policy, [*seen, *seen[:2]]), None, CODE))
    assert running == pytest.approx(done)


# The others


def test_thompson_draws_narrow_with_evidence_and_differ_between_requests_at_once() -> None:
    policy, arms = Thompson(), [PLAIN, A, B]
    start = situation(policy, arms)
    assert len({policy.choose(start, DRAW).arm for _ in range(50)}) == 3
    known = learnt(policy, [Observation(MODEL, A, 1.5 + 0.1 * (n % 3)) for n in range(60)])
    bonuses = policy.bonuses(situation(policy, arms, known))
    assert bonuses[1] < 0.1 < bonuses[2]


def test_exp3_weighs_a_reward_by_how_unlikely_its_arm_was_and_ignores_arms_that_were_not_drawn() -> None:
    policy = Exp3()
    assert policy.evidence(Observation(MODEL, A, 1.5, 0.25)) == {A: (1.0, 1.5, 2.0)}
    assert policy.evidence(Observation(MODEL, A, 1.5, 0.0)) == {A: (1.0, 1.5, 0.0)}


def test_hedge_learns_of_arms_that_were_not_chosen_from_estimates() -> None:
    policy, arms = Hedge(), [PLAIN, A, B]
    means = {PLAIN: 1.0, A: 1.5, B: 2.0}
    decisions, known = play(policy, arms, lambda arm, _index: means[arm], 60, estimates=lambda _index: means)
    assert known.of_arms(arms)[:, 0] == pytest.approx(known.of_arms([B])[0, 0])
    assert counts(decisions[20:])[B] > 0.85 * 40


def test_epsilon_explores_that_share() -> None:
    means = {PLAIN: 1.0, A: 2.0}
    decisions, _ = play(Epsilon(epsilon=0.2), list(means), lambda arm, _index: means[arm], 2000)
    assert counts(decisions)[PLAIN] / 2000 == pytest.approx(0.1, abs=0.02)


def test_fixed_takes_what_is_configured_as_far_as_it_is_there() -> None:
    now = situation(Fixed(), arms_for("ab"))
    assert Fixed().choose(now, DRAW).arm == AB
    assert Fixed(()).choose(now, DRAW).arm == PLAIN
    assert Fixed(("b", "c")).choose(now, DRAW).arm == B


def test_a_segment_without_a_context_is_one_of_which_nothing_is_known() -> None:
    policy = LinUcb()
    assert policy.evidence(Observation(MODEL, A, 1.2)) == policy.evidence(Observation(MODEL, A, 1.2, context=NEUTRAL))
