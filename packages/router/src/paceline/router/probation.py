"""A drafter nobody knows gets some requests, not all of them.

Optimism tries an unknown arm before any other. Where several requests run, or an arm has to be tried often before its
mean is believed, that would hand the traffic to whoever connects. So once a model is known, drafters with few segments
are among the choices only now and then.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paceline.router.arms import Arm
from paceline.router.evidence import Evidence
from paceline.router.policies.base import Decision, Figures, Policy, Situation

SHARE = 1 / 8  # of decisions in which drafters on probation may be chosen
ENOUGH = 4.0  # discounted segments, over all arms it is part of, after which a drafter is known
WARM = 64.0  # discounted segments of a model before anybody is on probation: at first all are new


def decide(
    policy: Policy,
    known: Evidence,
    arms: Sequence[Arm],
    pending: Figures,
    context: tuple[float, ...],
    random: np.random.Generator,
) -> Decision:
    """The policy's choice between arms, of which those on probation are offered to it now and then.

    Args:
        known: evidence of the model.
        arms: to choose from; plain decoding among them.
        pending: [arms], segments that run under each.
        context: see `paceline.router.context`.
    """
    sums = known.of_arms(arms)
    new = on_probation(known, arms) if policy.explores and sums[:, 0].min() < ENOUGH else frozenset()
    if not new:
        chosen = policy.choose(Situation(arms, sums, pending, context), random)
        return Decision(chosen.arm, chosen.probability, context)
    offered = random.random() < SHARE
    kept = [index for index, arm in enumerate(arms) if offered or not new.intersection(arm.drafters)]
    situation = Situation([arms[index] for index in kept], sums[kept], pending[kept], context)
    chosen = policy.choose(situation, random)
    chance = SHARE if new.intersection(chosen.arm.drafters) else 1.0
    return Decision(chosen.arm, chance * chosen.probability, context)


def on_probation(known: Evidence, arms: Sequence[Arm]) -> frozenset[str]:
    """Drafters among the arms that have been heard of too little; nobody while the model itself is new."""
    if known.sums[:, 0].sum() < WARM:
        return frozenset()
    weights = {name: 0.0 for arm in arms for name in arm.drafters}
    for arm, row in known.rows.items():
        for name in arm.drafters:
            if name in weights:
                weights[name] += known.sums[row, 0]
    return frozenset(name for name, weight in weights.items() if weight < ENOUGH)
