"""Arms, rewards and attribution: what can be chosen, and what a segment was worth to which of it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.router.arms import MAX_ARMS, MAX_ARMS_WITH_PAIRS, PLAIN, Arm, arm_of, arms_for
from paceline.router.attribution import Attribution
from paceline.router.reward import MAX_REWARD, MAX_SPEED, measured_speed, reward_of, speed_of
from paceline.router.wish import Wish

A, B = Arm(("a",)), Arm(("b",))
NAMES = st.lists(st.text(min_size=1, max_size=5), max_size=20)


# Arms


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], ["none"]),
        (["a"], ["none", "a"]),
        (["b", "a", "b"], ["none", "a", "b", "a+b"]),
        (["a", "b", "c"], ["none", "a", "b", "c", "a+b", "a+c", "b+c", "a+b+c"]),
        (
            ["a", "b", "c", "d"],
            ["none", "a", "b", "c", "d", "a+b", "a+c", "a+d", "b+c", "b+d", "c+d", "a+b+c+d"],
        ),
        (["a", "b", "c", "d", "e"], ["none", "a", "b", "c", "d", "e", "a+b+c+d+e"]),
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


@given(NAMES, st.integers(1, 99))
def test_a_small_budget_doubles_the_arms_with_drafters_while_there_are_few(names: list[str], budget: int) -> None:
    sets, arms = arms_for(names), arms_for(names, budget)
    assert arms[: len(sets)] == sets
    assert len(set(arms)) == len(arms) <= MAX_ARMS
    small = {Arm(arm.drafters, budget) for arm in sets if arm.drafters}
    assert set(arms[len(sets) :]) == (small if len(sets) + len(small) <= MAX_ARMS else set())


def test_a_wish_and_an_arm_are_both_kept_to_in_candidates() -> None:
    assert Wish().budget(A) == 0
    assert Wish(max_nodes=9).budget(A) == 9
    assert Wish().budget(Arm(("a",), 4)) == 4
    assert Wish(max_nodes=9).budget(Arm(("a",), 4)) == 4


@given(NAMES, st.integers(0, 99))
def test_an_arms_text_brings_back_the_arm(names: list[str], max_nodes: int) -> None:
    arm = Arm(arm_of(names).drafters, max_nodes)
    assert Arm.from_text(arm.to_text()) == arm


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"drafters":["a"],"max_nodes":true}',
        '{"drafters":["b","a"],"max_nodes":0}',
        '{"drafters":[1],"max_nodes":0}',
    ],
)
def test_text_that_is_no_arm_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the kind is the promise; json's and ours say it differently
        Arm.from_text(text)


# Reward


def test_speed_is_relative_to_plain_decoding_waiting_included() -> None:
    assert measured_speed(64, verify_s=1.0, wait_s=0.0, plain_s=2.0) == 2.0
    assert measured_speed(64, verify_s=1.0, wait_s=1.0, plain_s=2.0) == 1.0
    assert measured_speed(64, verify_s=4.0, wait_s=0.0, plain_s=2.0) == 0.5
    assert measured_speed(64, verify_s=0.001, wait_s=0.0, plain_s=2.0) == MAX_SPEED


def test_a_segment_that_says_nothing_has_no_speed() -> None:
    assert measured_speed(0, 1.0, 0.0, 1.0) is None
    assert measured_speed(5, 0.0, 0.0, 0.0) is None
    assert measured_speed(5, math.nan, 0.0, 1.0) is None
    assert measured_speed(5, 1.0, 0.0, math.inf) is None


@given(st.integers(), st.floats(), st.floats(), st.floats())
def test_no_report_however_wrong_is_worth_more_than_the_bound(
    tokens: int, verify_s: float, wait_s: float, plain_s: float
) -> None:
    speed = measured_speed(tokens, verify_s, wait_s, plain_s)
    assert speed is None or 0.0 <= speed <= MAX_SPEED
    assert speed is None or 0.0 <= reward_of(speed) <= MAX_REWARD


@given(st.lists(st.floats(0.5, 8.0), min_size=1, max_size=20))
def test_the_mean_reward_of_segments_is_that_of_the_time_they_all_took(speeds: list[float]) -> None:
    mean = sum(map(reward_of, speeds)) / len(speeds)
    assert speed_of(mean) == pytest.approx(len(speeds) / sum(1.0 / speed for speed in speeds))


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
