"""Scenes are what they say, policies are played as the router plays them, and the whole command runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import routing_cross_check
from rounds import BenchError
from routing import NAMES, make_report
from routing_cross_check import players
from routing_figures import best_fixed_regret, regret
from routing_play import decision_ms_p99, play
from routing_prompts import KINDS, pool
from routing_report import draw, notes, tables
from routing_run import BEST_FIXED, LEARNING, Plan, default_policy, run
from routing_scenes import SCENES, TIME_NOISE, draw_episode

from paceline.router.arms import PLAIN
from paceline.router.policies.fixed import Fixed
from paceline.router.policies.linucb import LinUcb
from paceline.router.policies.ucb import DiscountedUcb

BY_NAME = {scene.name: scene for scene in SCENES}


@pytest.mark.parametrize("name", NAMES)
def test_an_episode_is_the_same_for_the_same_seed_and_has_an_arm_to_choose(name: str) -> None:
    one, same, other = (draw_episode(BY_NAME[name], 60, seed) for seed in (1, 1, 2))
    assert np.array_equal(one.rewards, same.rewards)
    assert one.contexts == same.contexts
    assert not np.array_equal(one.rewards, other.rewards)
    assert one.offered[:, one.arms.index(PLAIN)].all()
    assert np.all(one.of_oracle >= 1.0)
    assert np.all(one.of_fixed <= one.of_oracle[:, None] + 1e-9)
    assert 2 < len(one.arms) <= 32


def test_rewards_scatter_around_what_is_expected_less_without_drafters() -> None:
    episode = draw_episode(BY_NAME["stationary"], 4000, 3)
    names = [str(arm) for arm in episode.arms]
    plain, suffix, recycling = (names.index(name) for name in ("none", "suffix", "recycling"))
    off = episode.rewards - episode.expected
    assert off.mean(axis=0) == pytest.approx(np.zeros(len(names)), abs=0.05)
    assert off[:, plain].std() == pytest.approx(TIME_NOISE, abs=0.01)
    assert off[:, recycling].std() > 3 * TIME_NOISE
    assert np.corrcoef(off[:, suffix], off[:, recycling])[0, 1] > 0.7, "what is easy for one is for another"
    within = ~episode.begins[1:]
    assert np.corrcoef(off[:-1][within, suffix], off[1:][within, suffix])[0, 1] > 0.5, "segments of a request are alike"


def test_what_was_accepted_says_how_much_a_request_is_worth() -> None:
    episode = draw_episode(BY_NAME["stationary"], 2000, 3)
    place = [str(arm) for arm in episode.arms].index("recycling")
    assert np.all(episode.accepted[:, 0] == 0.0)
    assert np.corrcoef(episode.accepted[:, place], episode.rewards[:, place])[0, 1] > 0.7


def test_an_absent_drafter_has_no_arm_and_what_it_leaves_is_that_of_the_others() -> None:
    episode = draw_episode(BY_NAME["dying"], 100, 1)
    names = [str(arm) for arm in episode.arms]
    both, second = names.index("best+second"), names.index("second")
    assert episode.offered[40, both]
    assert not episode.offered[60, both]
    assert episode.of_fixed[60, both] == episode.expected[60, second]
    assert episode.of_fixed[60, names.index("best")] == episode.expected[60, 0]


def test_kinds_of_prompts_can_be_told_apart_by_their_features() -> None:
    prompts = pool(np.random.default_rng(0))
    means = {kind: np.mean([prompt.context(0.0, 0.0) for prompt in prompts[kind]], axis=0) for kind in KINDS}
    for one in KINDS:
        for other in KINDS:
            assert one == other or np.abs(means[one] - means[other]).max() > 0.1, (one, other)


def test_the_oracle_of_contexts_is_out_of_reach_of_fixed_arms_and_less_so_of_a_policy_that_sees_them() -> None:
    episode = draw_episode(BY_NAME["contextual"], 800, 7)
    missed = best_fixed_regret(episode)[1]
    assert missed > 0.1
    assert regret(episode, play(LinUcb(), episode, 7)) < missed


def test_a_fixed_policy_does_what_the_fixed_arm_would_have_earned() -> None:
    episode = draw_episode(BY_NAME["dying"], 200, 4)
    chosen = play(Fixed(("best", "second")), episode, 4)
    place = [str(arm) for arm in episode.arms].index("best+second")
    earned = episode.expected[np.arange(200), chosen]
    assert earned == pytest.approx(episode.of_fixed[:, place])


def test_a_liar_fools_those_who_believe_reports_and_nobody_who_measures() -> None:
    episode = draw_episode(BY_NAME["liar"], 400, 2)
    lies = np.array(["liar" in arm.drafters for arm in episode.arms])
    assert lies[play(DiscountedUcb(), episode, 2)].mean() < 0.2
    assert lies[play(DiscountedUcb(), episode, 2, on_claims=True)].mean() > 0.5


def test_decisions_are_timed_for_32_arms() -> None:
    assert 0.0 < decision_ms_p99(DiscountedUcb()) < 1000.0


def test_a_run_writes_tables_notes_a_picture_and_figures_of_every_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["routing", "--seeds", "1"])
    plan = Plan(["liar", "contextual"], 60, range(5, 6), {})
    told: list[str] = []
    report = make_report(plan, run(plan, lambda what, _advance: told.append(what)))
    json.loads(json.dumps(report))
    assert set(report["scenes"]) == {"liar", "contextual"}
    for figures in report["scenes"].values():
        assert set(figures) == {BEST_FIXED, *LEARNING}
        for of_policy in figures.values():
            assert of_policy["regret"] + of_policy["share_of_oracle"] == pytest.approx(1.0)
    assert report["default_policy"] == default_policy() in LEARNING
    assert report["decision_ms_p99"] == max(report["decision_ms_p99_by_policy"].values())
    assert set(told) >= set(LEARNING)
    (table,) = tables(report)
    assert table.row_count == len(LEARNING) + 1
    assert any("the liar drafts for" in note for note in notes(report))
    draw(report, tmp_path / "routing.png")
    assert (tmp_path / "routing.png").read_bytes().startswith(b"\x89PNG")


def test_without_vowpal_wabbit_the_cross_check_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_name: str) -> None:
        raise ImportError

    monkeypatch.setattr(routing_cross_check.importlib, "import_module", missing)
    with pytest.raises(BenchError, match="pip install"):
        players()
