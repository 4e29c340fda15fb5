"""Made-up traffic: what each arm would earn for each segment, for several stories of how that comes about.

Stories tell speeds relative to plain decoding; what is played are rewards, which are about time (`router/reward.py`).
Requests have one to some tens of segments. What drafters bring differs much more between requests than between arms:
most answers repeat next to nothing, a few are found almost whole in their prompts. So a request multiplies all gains of
its arms by one level, drawn from an exponential distribution with mean 1; its segments differ from that by 30 %, and
times are measured to 5 %. (Measured on questions of Spec-Bench under seven arms: a question's speed deviates by .8
where the arms' means lie within .4 of each other, and arms with a drafter in common correlate by .9.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from routing_prompts import KINDS, pool

from paceline.router.arms import Arm, arms_for
from paceline.router.reward import LEAST_SPEED, MAX_REWARD, MAX_SPEED, measured_speed, reward_of

Table = NDArray[np.float64]
Gains = Mapping[str, float]

LEVELS = -np.log(1.0 - (np.arange(32) + 0.5) / 32)  # of requests, each as likely; their mean is about 1
SEGMENT_NOISE = 0.3
TIME_NOISE = 0.05
ESTIMATE_NOISE = 0.2  # of rewards that are only estimated, on top
MEAN_SEGMENTS = 4.0  # of a request
SEGMENT_TOKENS = 64
PLAIN_S = 0.64  # a segment's plain decoding
EACH_COSTS = 0.92  # what is left of speed for each drafter that has to be heard
BESIDE_THE_BEST = (1.0, 0.35, 0.15)  # how much of the gains of the best, the second and the third adds up
EVENLY = dict.fromkeys(KINDS, 1.0)


@dataclass(frozen=True)
class Scene:
    """A story.

    Attributes:
        about: in a line.
        gains: of each drafter by kind of prompt and progress in [0, 1]: what it adds to plain speed.
        kinds: how often each kind of prompt comes.
        absent: drafters that aren't connected, by progress.
        small_budget: see `paceline.router.arms.arms_for`.
        claims: acceptance that drafters report, where that is not what they bring.
    """

    name: str
    about: str
    gains: Callable[[str, float], Gains]
    kinds: Mapping[str, float] = field(default_factory=lambda: EVENLY)
    absent: Callable[[float], frozenset[str]] = lambda _progress: frozenset()
    small_budget: int = 0
    claims: Gains = field(default_factory=dict)

    def speed(self, arm: Arm, kind: str, progress: float, level: float = 1.0) -> float:
        """Of a segment of this level under an arm whose drafters are all connected. What a drafter costs beyond what
        each does is the same whatever the level."""
        return float(_speeds(arm, self.brought(arm, kind, progress), level))

    def brought(self, arm: Arm, kind: str, progress: float) -> float:
        """Tokens a step that the arm's drafters have right together at level 1; negative if they only cost."""
        known = self.gains(kind, progress)
        gains = sorted((known[name] for name in arm.drafters), reverse=True)
        budget = 0.9 if arm.max_nodes else 1.0
        return budget * sum(share * gain for share, gain in zip(BESIDE_THE_BEST, gains, strict=False))

    def expected(self, arm: Arm, kind: str, progress: float) -> float:
        """Mean reward over all levels."""
        times = 1.0 / np.clip(_speeds(arm, self.brought(arm, kind, progress), LEVELS), LEAST_SPEED, MAX_SPEED)
        return 2.0 - float(times.mean())


@dataclass(frozen=True)
class Episode:
    """Traffic that was drawn, or recorded.

    Attributes:
        arms: all there are.
        expected: [segments, arms], mean reward of each arm if all its drafters were connected.
        rewards: [segments, arms], what was to be earned.
        estimates: [segments, arms], what could be known of that without having chosen the arm.
        claims: [segments, arms], what the drafters would report.
        contexts: features of each segment, as far as they don't depend on what was chosen before.
        accepted: [segments, arms], tokens a step that the arm's drafters have right.
        begins: [segments], whether a request begins.
        offered: [segments, arms], whether an arm could be chosen.
        stands_for: [segments, arms], the arm that is left of an arm when drafters are missing.
    """

    arms: tuple[Arm, ...]
    expected: Table
    rewards: Table
    estimates: Table
    claims: Table
    contexts: list[tuple[float, ...]]
    accepted: Table
    begins: NDArray[np.bool_]
    offered: NDArray[np.bool_]
    stands_for: NDArray[np.int64]

    @property
    def of_fixed(self) -> Table:
        """[segments, arms], expected reward of always taking an arm, or what is left of it."""
        return np.take_along_axis(self.expected, self.stands_for, axis=1)

    @property
    def of_oracle(self) -> Table:
        """[segments], expected reward of the best arm there is for each."""
        best: Table = np.where(self.offered, self.expected, -np.inf).max(axis=1)
        return best


def draw_episode(scene: Scene, num_segments: int, seed: int) -> Episode:
    """The same for the same seed, whoever plays it."""
    random = np.random.default_rng([seed, 1])
    prompts = pool(random)
    names = sorted(scene.gains(KINDS[0], 0.0))
    arms = arms_for(names, scene.small_budget)
    at = {arm: index for index, arm in enumerate(arms)}
    shares = np.array([scene.kinds.get(kind, 0.0) for kind in KINDS])
    expected = np.empty((num_segments, len(arms)))
    offered = np.empty((num_segments, len(arms)), dtype=np.bool_)
    stands_for = np.empty((num_segments, len(arms)), dtype=np.int64)
    contexts: list[tuple[float, ...]] = []
    rewards, accepted = np.empty((num_segments, len(arms))), np.empty((num_segments, len(arms)))
    begins = np.zeros(num_segments, dtype=np.bool_)
    left = 0
    for index in range(num_segments):
        progress = index / num_segments
        begins[index] = left == 0
        if left == 0:
            kind = str(random.choice(KINDS, p=shares / shares.sum()))
            prompt = prompts[kind][random.integers(len(prompts[kind]))]
            temperature = float(random.random() < 0.5)
            of_request = float(random.choice(LEVELS))
            left = 1 + min(60, int(random.exponential(MEAN_SEGMENTS - 1.0)))
        left -= 1
        absent = scene.absent(progress)
        level = of_request * max(0.0, random.normal(1.0, SEGMENT_NOISE))
        for place, arm in enumerate(arms):
            remaining = Arm(tuple(name for name in arm.drafters if name not in absent))
            expected[index, place] = scene.expected(arm, kind, progress)
            rewards[index, place] = _measured(scene.speed(arm, kind, progress, level), random)
            accepted[index, place] = max(0.0, scene.brought(arm, kind, progress)) * level
            offered[index, place] = not absent.intersection(arm.drafters)
            stands_for[index, place] = place if offered[index, place] else at.get(remaining, 0)
        contexts.append(prompt.context(temperature, float(random.random())))
    estimates = np.clip(rewards * random.normal(1.0, ESTIMATE_NOISE, rewards.shape), 0.0, MAX_REWARD)
    claimed = [1.0 + 2.0 * max((scene.claims.get(n, 0.3) for n in arm.drafters), default=0.0) for arm in arms]
    claims = np.broadcast_to([reward_of(speed) for speed in claimed], rewards.shape)
    return Episode(arms, expected, rewards, estimates, claims, contexts, accepted, begins, offered, stands_for)


def _speeds(arm: Arm, brought: float, levels: Any) -> Any:
    """By level, of one or of several at once."""
    lifted = brought * levels if brought > 0.0 else brought + 0.0 * levels
    return np.maximum(0.05, (1.0 + lifted) * EACH_COSTS ** len(arm.drafters))


def _measured(speed: float, random: np.random.Generator) -> float:
    """The reward as the router computes it from a verifier's times."""
    spent_s = PLAIN_S / speed * max(0.5, random.normal(1.0, TIME_NOISE))
    return reward_of(measured_speed(SEGMENT_TOKENS, spent_s, 0.0, PLAIN_S) or 0.0)


# The stories


def _stationary(_kind: str, _progress: float) -> Gains:
    return {"suffix": 0.35, "recycling": 0.6, "slow": -0.1, "useless": -0.25}


def _many(_kind: str, _progress: float) -> Gains:
    gains = np.random.default_rng(5).uniform(-0.3, 0.5, 14)
    return {f"drafter-{number:02}": float(gain) for number, gain in enumerate(gains)} | {"drafter-07": 0.9}


def _drifting(_kind: str, progress: float) -> Gains:
    """One learns, one is good at what comes first and last, one is what it is."""
    learning = 1.1 / (1.0 + math.exp(-14.0 * (progress - 0.35))) - 0.1
    shifting = 0.8 if progress < 0.25 or progress >= 0.7 else -0.2
    return {"learning": learning - (0.5 if progress >= 0.7 else 0.0), "shifting": shifting, "steady": 0.25}


_BY_KIND = {
    "code": {"suffix": 1.2, "recycling": 0.5, "head": 0.2},
    "summary": {"suffix": 0.7, "recycling": 0.1, "head": 0.9},
    "chat": {"suffix": -0.1, "recycling": -0.1, "head": -0.2},
    "maths": {"suffix": 0.0, "recycling": 0.9, "head": 0.2},
    "translation": {"suffix": -0.1, "recycling": 0.0, "head": 0.8},
}


def _contextual(kind: str, _progress: float) -> Gains:
    return _BY_KIND[kind]


def _dying(_kind: str, progress: float) -> Gains:
    """What the best brings is waited for in vain from 40 % on; from 45 % its lease is over; at 75 % it is back."""
    dead = 0.40 <= progress < 0.45
    return {"best": -0.5 if dead else 1.0, "second": 0.4, "useless": -0.2}


def _liar(_kind: str, _progress: float) -> Gains:
    return {"honest": 0.5, "liar": -0.3}


def _none_wins(kind: str, _progress: float) -> Gains:
    return {"suffix": -0.05, "recycling": -0.1 if kind == "chat" else 0.0, "slow": -0.3}


def _newcomer(_kind: str, _progress: float) -> Gains:
    return {"steady": 0.5, "new": -0.6}


SCENES = (
    Scene("stationary", "four drafters, always the same", _stationary),
    Scene("many", "14 drafters with two budgets each, 31 arms", _many, small_budget=8),
    Scene("drifting", "one drafter learns, the traffic shifts at 25 % and at 70 %", _drifting),
    Scene("contextual", "five kinds of prompts, each with drafters of its own", _contextual),
    Scene(
        "dying",
        "the best drafter hangs at 40 %, is gone at 45 % and back at 75 %",
        _dying,
        absent=lambda progress: frozenset({"best"} if 0.45 <= progress < 0.75 else ()),
    ),
    Scene("liar", "one drafter reports 95 % acceptance and costs time", _liar, claims={"honest": 0.5, "liar": 0.95}),
    Scene("none_wins", "no drafter pays", _none_wins),
    Scene(
        "newcomer",
        "a drafter that does harm connects at 30 %",
        _newcomer,
        absent=lambda progress: frozenset({"new"} if progress < 0.3 else ()),
    ),
)
