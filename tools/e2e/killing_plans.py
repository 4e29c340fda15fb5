"""Which process is killed when, while what is asked: drawn from a seed, so that a round can be played again. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from errands import Door, Errand
from fleet import DRAFTERS, ROUTERS, VERIFIERS

REDIS = "redis"
NUM_ERRANDS = 12  # with known answers; rounds draw from them
IN_FLIGHT = 10
# Shares of a round's text: before the first, something may not have begun; after the last, much is over.
EARLIEST, LATEST = 0.02, 0.5


class Kind(Enum):
    ROUTER = "router"
    VERIFIER = "verifier"
    REDIS = "redis"
    DRAFTER = "drafter"


VICTIMS: dict[Kind, tuple[str, ...]] = {
    Kind.ROUTER: ROUTERS,
    Kind.VERIFIER: VERIFIERS,
    Kind.REDIS: (REDIS,),
    Kind.DRAFTER: tuple(DRAFTERS),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """One round.

    Attributes:
        asked: errand, door, router.
        share: of all their text that has come when the victim is killed.
        at_once: whether the victim is started again while requests run; otherwise when all are over.
        forgets: a Redis that comes back with nothing.
    """

    number: int
    kind: Kind
    victim: str
    asked: tuple[tuple[Errand, Door, str], ...]
    share: float
    at_once: bool
    forgets: bool


def draw_plans(rng: random.Random, rounds: int, errands: Sequence[Errand]) -> list[Plan]:
    """Each kind of victim equally often (as far as the number of rounds allows), in any order."""
    kinds = [list(Kind)[number % len(Kind)] for number in range(rounds)]
    rng.shuffle(kinds)
    return [_plan(rng, number, kind, errands) for number, kind in enumerate(kinds)]


def _plan(rng: random.Random, number: int, kind: Kind, errands: Sequence[Errand]) -> Plan:
    # The same errand may run twice at once: through both routers, or through both doors of one.
    asked = [(rng.choice(errands), rng.choice(list(Door)), ROUTERS[index % 2]) for index in range(IN_FLIGHT)]
    return Plan(
        number,
        kind,
        rng.choice(VICTIMS[kind]),
        tuple(asked),
        rng.uniform(EARLIEST, LATEST),
        at_once=rng.random() < 0.5,
        forgets=kind is Kind.REDIS and rng.random() < 0.5,
    )
