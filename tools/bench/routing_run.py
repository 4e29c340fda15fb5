"""All policies on all scenes, or on what was recorded: figures and curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from routing_figures import curve, points_of, share_of, summary, summary_of_fixed
from routing_play import Chosen, decision_ms_p99, play
from routing_recorded import Line, fixed_means, replay
from routing_scenes import SCENES, Episode, Scene, draw_episode

from paceline.router.policies import POLICIES
from paceline.router.policies.base import Policy, PolicyOptions
from paceline.router.reward import speed_of
from paceline.router.settings import RouterSettings

BEST_FIXED = "best fixed"
LEARNING = tuple(name for name in POLICIES if name != "fixed")
LIAR = "liar"

Player = Callable[[Episode, int], Chosen]
Told = Callable[[str, int], None]


@dataclass(frozen=True)
class Plan:
    """What to run.

    Attributes:
        scenes: by name, of `SCENES`.
        segments: of each episode.
        seeds: an episode is drawn for each.
        others: players beside the router's policies, by name.
    """

    scenes: Sequence[str]
    segments: int
    seeds: Sequence[int]
    others: Mapping[str, Player]


def make(name: str) -> Policy:
    return POLICIES[name](PolicyOptions())


def default_policy() -> str:
    """What routers use unless they are told otherwise."""
    return str(RouterSettings.model_fields["policy"].default)


def run(plan: Plan, tell: Told) -> dict[str, Any]:
    """Figures by scene and policy, curves, what came of the liar, and how long decisions take."""
    scenes, curves = {}, {}
    liar: dict[str, float] = {}
    for scene in SCENES:
        if scene.name in plan.scenes:
            tell(scene.name, 0)
            episodes = [draw_episode(scene, plan.segments, seed) for seed in plan.seeds]
            scenes[scene.name], curves[scene.name], chosen = of_episodes(episodes, plan, tell)
            if scene.name == LIAR:
                liar = believed(scene, episodes, chosen[default_policy()], plan.seeds)
    times = {name: round(decision_ms_p99(make(name)), 4) for name in LEARNING}
    return {
        "scenes": scenes,
        "curves": {"segments": points_of(plan.segments).tolist(), **curves},
        "liar": liar,
        "decision_ms_p99": max(times.values()),
        "decision_ms_p99_by_policy": times,
    }


def of_episodes(
    episodes: Sequence[Episode], plan: Plan, tell: Told
) -> tuple[dict[str, Any], dict[str, list[float]], dict[str, list[Chosen]]]:
    """Of each policy: figures, the median curve, and its choices."""
    players: dict[str, Player] = {name: _player(name) for name in LEARNING} | dict(plan.others)
    figures: dict[str, Any] = {BEST_FIXED: summary_of_fixed(episodes)}
    curves: dict[str, list[float]] = {}
    every: dict[str, list[Chosen]] = {}
    for name, player in players.items():
        chosen = [player(episode, seed) for episode, seed in zip(episodes, plan.seeds, strict=True)]
        figures[name], every[name] = summary(episodes, chosen), chosen
        each = [curve(episode, one) for episode, one in zip(episodes, chosen, strict=True)]
        curves[name] = np.median(each, axis=0).round(4).tolist()
        tell(name, len(episodes))
    return figures, curves, every


def believed(
    scene: Scene, episodes: Sequence[Episode], measured: Sequence[Chosen], seeds: Sequence[int]
) -> dict[str, float]:
    """The share of segments that the liar drafts for when the default policy learns from measured time, and when it
    would learn from what drafters report; and what the latter costs."""
    on_claims = [
        play(make(default_policy()), episode, seed, on_claims=True)
        for episode, seed in zip(episodes, seeds, strict=True)
    ]
    shares = {
        "share_when_time_is_measured": measured,
        "share_when_reports_are_believed": on_claims,
    }
    return {
        **{
            name: round(float(np.median([share_of(LIAR, e, c) for e, c in zip(episodes, chosen, strict=True)])), 4)
            for name, chosen in shares.items()
        },
        "regret_when_reports_are_believed": summary(episodes, on_claims)["regret"],
    }


def run_recorded(recorded: Episode | list[Line], plan: Plan, tell: Told) -> dict[str, Any]:
    """The same shape of figures for one file."""
    if isinstance(recorded, Episode):
        figures, curves, _chosen = of_episodes([recorded] * len(plan.seeds), plan, tell)
        points = points_of(len(recorded.rewards)).tolist()
        return {"scenes": {"recorded": figures}, "curves": {"segments": points, "recorded": curves}}
    means = fixed_means(recorded)
    best = max(means, key=lambda arm: means[arm])
    fastest = speed_of(means[best])
    figures = {BEST_FIXED: {"regret": 0.0, "share_of_oracle": 1.0, "speed": round(fastest, 4), "arm": str(best)}}
    for name in LEARNING:
        found = [replay(make(name), recorded, seed) for seed in plan.seeds]
        speed = speed_of(float(np.median([value for value, _count in found])))
        figures[name] = {
            "regret": round(1.0 - speed / fastest, 4),
            "share_of_oracle": round(speed / fastest, 4),
            "speed": round(speed, 4),
            "agreed": int(np.median([count for _mean, count in found])),
        }
        tell(name, len(plan.seeds))
    return {"scenes": {"recorded": figures}, "curves": {}}


def _player(name: str) -> Player:
    return lambda episode, seed: play(make(name), episode, seed)
