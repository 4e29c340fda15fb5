"""Outcomes that were recorded, to play policies on. JSON lines, of one of two kinds throughout a file.

A table: how fast each arm was at a segment, relative to plain decoding, as a benchmark that runs each segment under
each arm finds it (`//tools/bench:choosing --record`).

    {"speeds": {"none": 1.0, "suffix": 1.4, "recycling+suffix": 1.6}, "context": [1.0, 0.4, 0.0, 0.2, 0.1, 0, 0, 0.1]}

The oracle is then the best that was measured for each segment, noise included: more than anybody can reach.

A log: what a router chose, and what that earned. `probability` is the one with which it was chosen; lines without it
are taken for drawn evenly. Policies are replayed on it by rejection: a line counts, and is learnt from, if the policy
chooses as the log did (Li, Chu, Langford and Wang, *Unbiased Offline Evaluation of Contextual-bandit-based News
Article Recommendation Algorithms*); lines that were likelier weigh less. Regret is against the best fixed arm.

    {"arm": "suffix", "speed": 1.4, "probability": 0.25, "context": [...], "arms": ["none", "suffix"]}

Arms are names of drafters joined by "+", or "none". `context` has the features of `paceline.router.context`, the first
of them 1, and may be missing; `arms` are those that could be chosen, all of the file if missing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rounds import BenchError
from routing_play import MODEL
from routing_scenes import Episode

from paceline.router.arms import PLAIN, Arm, arm_of
from paceline.router.context import NEUTRAL, NUM_FEATURES
from paceline.router.evidence import Evidence, Observation
from paceline.router.policies.base import Policy
from paceline.router.probation import decide
from paceline.router.reward import MAX_SPEED, reward_of

MAX_LINES = 1_000_000


@dataclass(frozen=True)
class Line:
    """One segment of a log."""

    arm: Arm
    reward: float
    probability: float | None
    context: tuple[float, ...]
    arms: tuple[Arm, ...]


def read_recorded(path: Path) -> Episode | list[Line]:
    """A table as an episode, or a log. Raises BenchError naming the line."""
    try:
        texts = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"--recorded {path}: {error}") from None
    rows: list[dict[str, Any]] = []
    for number, text in enumerate(texts, 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
            if not isinstance(row, dict) or ("speeds" in row) != ("speeds" in (rows[0] if rows else row)):
                raise ValueError("no JSON object, or a log's line in a table")
            rows.append({**row, "context": _context_of(row)} | _figures_of(row))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BenchError(f"--recorded {path}, line {number}: {error}") from None
    if not rows or len(rows) > MAX_LINES:
        raise BenchError(f"--recorded {path}: {len(rows)} lines; between 1 and {MAX_LINES:,} are needed")
    if "speeds" not in rows[0]:
        return _log_of(rows)
    if any(row["rewards"].keys() != rows[0]["rewards"].keys() for row in rows):
        raise BenchError(f"--recorded {path}: every line of a table must have the same arms")
    if PLAIN not in rows[0]["rewards"]:
        raise BenchError(f"--recorded {path}: a table needs the arm 'none', since plain decoding can always be chosen")
    return _table_of(rows)


def replay(policy: Policy, lines: Sequence[Line], seed: int) -> tuple[float, int]:
    """What the policy's segments earned on average, and how many lines it agreed with."""
    random = np.random.default_rng([seed, 4])
    known = Evidence.nothing(policy.shape.width)
    total = weights = 0.0
    count = 0
    for line in lines:
        decision = decide(policy, known, line.arms, np.zeros(len(line.arms)), line.context, random)
        if decision.arm != line.arm:
            continue
        weight = 1.0 / (line.probability or 1.0 / len(line.arms))
        total, weights, count = total + weight * line.reward, weights + weight, count + 1
        seen = Observation(MODEL, line.arm, line.reward, decision.probability, line.context)
        known = known.then(Evidence.of(policy.evidence(seen)), policy.shape.discount)
    return total / weights if weights else math.nan, count


def fixed_means(lines: Sequence[Line]) -> dict[Arm, float]:
    """What each arm earned on average, by the same weighting."""
    sums: dict[Arm, tuple[float, float]] = {}
    for line in lines:
        weight = 1.0 / (line.probability or 1.0 / len(line.arms))
        total, weights = sums.get(line.arm, (0.0, 0.0))
        sums[line.arm] = (total + weight * line.reward, weights + weight)
    return {arm: total / weights for arm, (total, weights) in sums.items()}


def _arm(name: object) -> Arm:
    if not isinstance(name, str) or not name or len(name) > 4000:
        raise ValueError(f"an arm is a text such as 'none' or 'recycling+suffix', not {str(name)[:40]!r}")
    return PLAIN if name == "none" else arm_of(name.split("+"))


def _reward(speed: object) -> float:
    if not isinstance(speed, int | float) or isinstance(speed, bool) or not 0.0 <= speed <= MAX_SPEED:
        raise ValueError(f"a speed is a number in [0, {MAX_SPEED:g}], not {str(speed)[:40]}")
    return reward_of(float(speed))


def _context_of(row: dict[str, Any]) -> tuple[float, ...]:
    context = tuple(float(value) for value in row.get("context", NEUTRAL))
    if len(context) != NUM_FEATURES or context[0] != 1.0 or not all(0.0 <= value <= 1.0 for value in context):
        raise ValueError(f"context has {NUM_FEATURES} numbers in [0, 1], of which the first is 1")
    return context


def _figures_of(row: dict[str, Any]) -> dict[str, Any]:
    if "speeds" in row:
        speeds = {_arm(name): _reward(value) for name, value in row["speeds"].items()}
        return {"speeds": speeds, "rewards": speeds}
    probability = row.get("probability")
    if probability is not None and not 0.0 < float(probability) <= 1.0:
        raise ValueError("probability lies in (0, 1]")
    arms = [_arm(name) for name in row["arms"]] if "arms" in row else None
    return {"arm": _arm(row["arm"]), "reward": _reward(row["speed"]), "probability": probability, "arms": arms}


def _log_of(rows: list[dict[str, Any]]) -> list[Line]:
    everything = tuple(sorted({PLAIN, *(row["arm"] for row in rows)}))
    return [
        Line(
            row["arm"],
            row["reward"],
            row["probability"],
            row["context"],
            tuple(sorted({PLAIN, row["arm"], *row["arms"]})) if row["arms"] else everything,
        )
        for row in rows
    ]


def _table_of(rows: list[dict[str, Any]]) -> Episode:
    arms = tuple(sorted(rows[0]["rewards"]))
    rewards = np.array([[row["rewards"][arm] for arm in arms] for row in rows])
    places = np.broadcast_to(np.arange(len(arms)), rewards.shape)
    contexts = [row["context"] for row in rows]
    everything = np.ones(rewards.shape, dtype=np.bool_)
    accepted, begins = np.zeros(rewards.shape), np.ones(len(rows), dtype=np.bool_)  # each line a request of its own
    return Episode(arms, rewards, rewards, rewards, rewards, contexts, accepted, begins, everything, places)
