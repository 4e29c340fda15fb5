"""The worked example of docs/policy.md, played on the scenes of //tools/bench:routing, and held to a policy's laws."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from routing_figures import regret
from routing_play import play
from routing_scenes import SCENES, draw_episode

from paceline.router.arms import PLAIN, arms_for
from paceline.router.context import NEUTRAL
from paceline.router.evidence import Evidence, Observation
from paceline.router.policies.base import Policy, Situation

EXAMPLE = Path(os.environ["RUNFILES_DIR"]) / "paceline" / "docs" / "examples" / "cautious.py"
BY_NAME = {scene.name: scene for scene in SCENES}
SEED = 1000  # policies are tuned on seeds below


@pytest.fixture
def policy() -> Policy:
    spec = importlib.util.spec_from_file_location("cautious", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: Policy = module.Cautious()
    return made


@pytest.mark.parametrize(("name", "most"), [("stationary", 0.05), ("newcomer", 0.05), ("drifting", 0.17)])
def test_it_misses_little_of_what_the_best_arm_earns(policy: Policy, name: str, most: float) -> None:
    episode = draw_episode(BY_NAME[name], 800, SEED)
    assert regret(episode, play(policy, episode, SEED)) < most


def test_it_leaves_drafters_out_where_none_pays(policy: Policy) -> None:
    episode = draw_episode(BY_NAME["none_wins"], 800, SEED)
    chosen = play(policy, episode, SEED)
    assert np.mean(chosen[200:] == episode.arms.index(PLAIN)) > 0.7


def test_it_chooses_from_nothing_and_keeps_nothing(policy: Policy) -> None:
    arms = arms_for("abc")
    known = Evidence.nothing(policy.shape.width)
    for arm, reward in zip(arms, (1.0, 1.3, 0.8, 1.1, 1.2), strict=False):
        seen = policy.evidence(Observation("model", arm, reward))
        known = known.then(Evidence.of(seen), policy.shape.discount)
        assert len(next(iter(seen.values()))) == policy.shape.width
    for evidence in (Evidence.nothing(policy.shape.width), known):
        now = Situation(arms, evidence.of_arms(arms), np.zeros(len(arms)), NEUTRAL)
        chosen = [policy.choose(now, np.random.default_rng(seed)).arm for seed in (*range(9), *range(9))]
        assert chosen[:9] == chosen[9:]
        assert set(chosen) <= set(arms)
        assert np.all(policy.bonuses(now) >= 0.0)
