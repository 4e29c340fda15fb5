"""Policies at play against arms that a test makes up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from paceline.router.arms import Arm
from paceline.router.context import NEUTRAL
from paceline.router.evidence import Evidence, Observation
from paceline.router.policies.base import Decision, Policy, Situation

MODEL = "m"
A, B, AB = Arm(("a",)), Arm(("b",)), Arm(("a", "b"))

Context = tuple[float, ...]


def situation(
    policy: Policy,
    arms: Sequence[Arm],
    known: Evidence | None = None,
    pending: Mapping[Arm, int] | None = None,
    context: Context = NEUTRAL,
) -> Situation:
    """What a policy sees that knows this, or nothing."""
    evidence = known or Evidence.nothing(policy.shape.width)
    running = np.array([float((pending or {}).get(arm, 0)) for arm in arms])
    return Situation(arms, evidence.of_arms(arms), running, context)


def learnt(policy: Policy, observations: Sequence[Observation], known: Evidence | None = None) -> Evidence:
    """Evidence of segments one after the other."""
    evidence = known or Evidence.nothing(policy.shape.width)
    for observation in observations:
        evidence = evidence.then(Evidence.of(policy.evidence(observation)), policy.shape.discount)
    return evidence


def play(
    policy: Policy,
    arms: Sequence[Arm],
    speed: Callable[[Arm, int], float],
    num_segments: int,
    known: Evidence | None = None,
    seed: int = 0,
    context: Callable[[int], Context] = lambda _index: NEUTRAL,
    estimates: Callable[[int], Mapping[Arm, float]] = lambda _index: {},
) -> tuple[list[Decision], Evidence]:
    """What was decided when segments earn `speed(arm, index)`, and what was learnt."""
    random = np.random.default_rng(seed)
    evidence = known or Evidence.nothing(policy.shape.width)
    decisions = []
    for index in range(num_segments):
        features = context(index)
        decision = policy.choose(situation(policy, arms, evidence, context=features), random)
        decisions.append(decision)
        reward = speed(decision.arm, index)
        seen = Observation(MODEL, decision.arm, reward, decision.probability, features, estimates(index))
        evidence = learnt(policy, [seen], evidence)
    return decisions, evidence


def counts(decisions: Sequence[Decision]) -> Counter[Arm]:
    return Counter(decision.arm for decision in decisions)
