"""Scores of drafters that weren't engaged: who is asked for them, and what is learnt from what comes."""

from __future__ import annotations

import math
from typing import Any

import pytest
from conftest import Deploy, Deployment
from hypothesis import given
from hypothesis import strategies as st

from paceline.router.arms import PLAIN, Arm
from paceline.router.convert import MAX_SHADOWS, shadow_rewards
from paceline.router.member import Member, Role
from paceline.router.reward import MAX_REWARD
from paceline.v1 import generation_pb2, types_pb2

FAST, SLOW, BOTH = Arm(("fast",)), Arm(("slow",)), Arm(("fast", "slow"))
DRAFTERS = {"f-1": "fast", "s-1": "slow"}


def score(drafter_id: str, reward: float, **changes: Any) -> generation_pb2.ShadowScore:
    figures: dict[str, Any] = {"tokens": 64, "steps": 20, "verify_s": 0.4, "wait_s": 0.1, "plain_s": 0.5 * reward}
    return generation_pb2.ShadowScore(drafter_id=drafter_id, drafter_name="whoever", **{**figures, **changes})


async def told(deployment: Deployment, **fields: Any) -> None:
    async for event in deployment.generate(**fields):
        assert event.WhichOneof("event") != "outcome"


def learnt(deployment: Deployment, *arms: Arm) -> dict[Arm, tuple[float, float]]:
    """Of each of these arms of which something is: segments and mean reward."""
    reports = deployment.router.backend.learner.report("m", arms)
    return {report.arm: (report.pulls, report.mean) for report in reports if report.pulls}


async def test_hedge_learns_of_drafters_that_were_never_engaged(deploy: Deploy) -> None:
    deployment = await deploy(policy="hedge", segment_tokens=64)  # longer than the answer: nothing is chosen after it
    drafters = {**DRAFTERS, "f-2": "fast"}
    shadows = (score("f-1", 4.0), score("s-1", 2.0), score("f-2", 4.0 / 3.0), score("f-1", 2.0))
    verifier = await deployment.verifier("v", drafters=drafters, shadows=shadows)
    await told(deployment)
    # One segment under one arm, and whichever that was: drafters make it twice as fast, as estimates do over time.
    assert (len(verifier.requests), len(verifier.engaged)) == (1, 0)
    assert learnt(deployment, FAST, SLOW) == {FAST: (1.0, pytest.approx(2.0)), SLOW: (1.0, pytest.approx(2.0))}


async def test_hedge_goes_where_estimates_say_and_asks_with_each_choice(deploy: Deploy) -> None:
    deployment = await deploy(policy="hedge", segment_tokens=4)
    speeds = {frozenset(): 1.0, frozenset(["fast"]): 3.0}
    shadows = (score("f-1", 3.0), score("s-1", 0.5))
    verifier = await deployment.verifier(
        "v", drafters=DRAFTERS, shadows=shadows, speed=lambda names: speeds.get(names, 0.5)
    )
    for _ in range(40):
        await told(deployment)
    sessions = [*(request.speculation for request in verifier.requests), *verifier.engaged]
    assert {speculation.shadow for speculation in sessions} == {MAX_SHADOWS}
    late = verifier.requests[20:]
    assert sum(list(request.speculation.drafters) == ["fast"] for request in late) > len(late) / 2
    known = learnt(deployment, FAST, SLOW)
    assert known[FAST][1] > 2.5 > 1.0 > known[SLOW][1]


@pytest.mark.parametrize("policy", ["linucb", "ucb", "fixed"])
async def test_other_policies_ask_for_nothing_and_learn_nothing_from_it(deploy: Deploy, policy: str) -> None:
    deployment = await deploy(policy=policy, segment_tokens=4)
    shadows = (score("f-1", 8.0), score("s-1", 8.0))
    verifier = await deployment.verifier("v", drafters=DRAFTERS, shadows=shadows)
    for _ in range(5):
        await told(deployment)
    sessions = [*(request.speculation for request in verifier.requests), *verifier.engaged]
    assert {speculation.shadow for speculation in sessions} == {0}
    assert all(mean <= 2.0 + 1e-9 for _pulls, mean in learnt(deployment, PLAIN, FAST, SLOW, BOTH).values())


@pytest.mark.parametrize(
    "wish", [{"drafters": ["slow"]}, {"off": True}, {"max_nodes": 3}, {"drafters": ["slow"], "shadow": 5}]
)
async def test_text_of_a_client_who_chooses_is_for_nobody_else(deploy: Deploy, wish: dict[str, Any]) -> None:
    deployment = await deploy(policy="hedge")
    verifier = await deployment.verifier("v", drafters=DRAFTERS, shadows=(score("f-1", 8.0),))
    await told(deployment, speculation=types_pb2.Speculation(**wish))
    assert [request.speculation.shadow for request in verifier.requests] == [0]
    assert FAST not in learnt(deployment, FAST)


async def test_a_client_can_not_ask_for_scores(deploy: Deploy) -> None:
    deployment = await deploy(policy="ucb")
    verifier = await deployment.verifier("v", drafters=DRAFTERS)
    await told(deployment, speculation=types_pb2.Speculation(shadow=7))
    assert [request.speculation.shadow for request in verifier.requests] == [0]


async def test_an_older_verifier_is_not_asked_and_serves_as_ever(deploy: Deploy) -> None:
    deployment = await deploy(policy="hedge")
    shadows = (score("f-1", 8.0),)
    verifier = await deployment.verifier("v", drafters=DRAFTERS, protocol=(1, 3), shadows=shadows)
    for _ in range(10):
        await told(deployment)
    sessions = [*(request.speculation for request in verifier.requests), *verifier.engaged]
    assert {speculation.shadow for speculation in sessions} == {0}
    assert all(mean <= 2.0 + 1e-9 for _pulls, mean in learnt(deployment, FAST).values())


@pytest.mark.parametrize(
    "forged",
    [
        score("x-1", 8.0),
        score("alice-1", 8.0),
        score("trial-1", 8.0),
        score("", 8.0),
        score("s-1", math.nan),
        score("s-1", 8.0, tokens=0),
        score("s-1", 8.0, verify_s=-1.0),
        score("s-1", 8.0, wait_s=math.inf),
    ],
)
async def test_what_can_not_be_true_is_not_learnt(deploy: Deploy, forged: generation_pb2.ShadowScore) -> None:
    deployment = await deploy(policy="hedge", segment_tokens=24)
    verifier = await deployment.verifier("v", drafters=DRAFTERS, shadows=(forged,), speed=lambda names: 1.0)
    roster = deployment.router.backend.roster
    for key, fields in {"alice-1": {"own": True}, "trial-1": {"trial_of": "s-1"}}.items():
        verifier.drafters[key] = "slow"
        roster.announce(Member(key, Role.DRAFTER, name="slow", **fields))
    roster.announce(verifier.member())
    for _ in range(10):
        await told(deployment)
    known = learnt(deployment, PLAIN, FAST, SLOW, BOTH)
    assert all(mean == pytest.approx(1.0) for _pulls, mean in known.values())


anything = st.floats(width=64)
scores = st.builds(
    generation_pb2.ShadowScore,
    drafter_id=st.sampled_from(["a", "b", ""]),
    tokens=st.integers(0, 2**32 - 1),
    verify_s=anything,
    wait_s=anything,
    plain_s=anything,
)


@given(st.lists(scores, max_size=40))
def test_whatever_comes_rewards_are_bounded(sent: list[generation_pb2.ShadowScore]) -> None:
    found = shadow_rewards(generation_pb2.Outcome(shadows=sent))
    assert len(found) <= MAX_SHADOWS
    assert all(0.0 <= reward <= MAX_REWARD for _drafter_id, reward in found)
