"""Plays policies on episodes: with the router's own choosing and learning, one segment after the other."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from routing_scenes import Episode

from paceline.router.arms import Arm, arms_for
from paceline.router.context import NUM_FEATURES, seen_features
from paceline.router.evidence import Evidence, Observation
from paceline.router.policies.base import Policy
from paceline.router.probation import decide

MODEL = "target"
NUM_ARMS = 32
WARM_UP = 200
TIMED = 1000
ROUNDS = 3

Chosen = NDArray[np.int64]


def play(policy: Policy, episode: Episode, seed: int, on_claims: bool = False) -> Chosen:
    """[segments], the arm that was chosen for each.

    Args:
        on_claims: it learns from what drafters report instead of what was measured.
    """
    random = np.random.default_rng([seed, 2])
    known = Evidence.nothing(policy.shape.width)
    at = {arm: index for index, arm in enumerate(episode.arms)}
    rewards = episode.claims if on_claims else episode.rewards
    chosen = np.empty(len(rewards), dtype=np.int64)
    arms, mask = episode.arms, np.zeros(0, dtype=np.bool_)
    full_information = policy.shape.policy == "hedge"
    accepted: float | None = None
    for index, before in enumerate(episode.contexts):
        accepted = None if episode.begins[index] else accepted
        context = (*before[:-2], *seen_features(accepted)) if accepted is not None else before
        if not np.array_equal(mask, episode.offered[index]):
            mask = episode.offered[index]
            arms = tuple(arm for arm, there in zip(episode.arms, mask, strict=True) if there)
            nobody = np.zeros(len(arms))
        decision = decide(policy, known, arms, nobody, context, random)
        place = chosen[index] = at[decision.arm]
        estimates = _estimates(episode, index, arms, decision.arm) if full_information else {}
        seen = Observation(MODEL, decision.arm, rewards[index, place], decision.probability, context, estimates)
        known = known.then(Evidence.of(policy.evidence(seen)), policy.shape.discount)
        if decision.arm.drafters:
            accepted = float(episode.accepted[index, place])
    return chosen


def _estimates(episode: Episode, index: int, arms: tuple[Arm, ...], chosen: Arm) -> Mapping[Arm, float]:
    estimates = episode.estimates[index][episode.offered[index]]
    return {arm: float(estimate) for arm, estimate in zip(arms, estimates, strict=True) if arm != chosen}


def decision_ms_p99(policy: Policy, seed: int = 0) -> float:
    """Of a choice between 32 arms of which all are known a little: the 99th percentile, in ms. The least of three
    rounds, since other processes can only make it longer."""
    return min(_decision_ms_p99(policy, seed + number) for number in range(ROUNDS))


def _decision_ms_p99(policy: Policy, seed: int) -> float:
    random = np.random.default_rng([seed, 3])
    arms = arms_for((f"drafter-{number:02}" for number in range(16)), 0)
    arms = (*arms, *(Arm(arm.drafters, 8) for arm in arms if arm.drafters))[:NUM_ARMS]
    known = Evidence.nothing(policy.shape.width)
    nobody = np.zeros(len(arms))
    times = []
    for number in range(WARM_UP + TIMED):
        context = (1.0, *random.random(NUM_FEATURES - 1).tolist())
        began = time.perf_counter()
        decision = decide(policy, known, arms, nobody, context, random)
        times.append(time.perf_counter() - began)
        arm = arms[number % NUM_ARMS] if number < WARM_UP else decision.arm
        seen = Observation(MODEL, arm, float(random.normal(1.2, 0.3)), decision.probability, context)
        known = known.then(Evidence.of(policy.evidence(seen)), policy.shape.discount)
    return 1000.0 * float(np.quantile(times[WARM_UP:], 0.99))
