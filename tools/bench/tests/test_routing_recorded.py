"""Recorded outcomes: read with care, and replayed without bias."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rounds import BenchError
from routing_recorded import Line, fixed_means, read_recorded, replay
from routing_run import BEST_FIXED, LEARNING, Plan, run_recorded
from routing_scenes import Episode

from paceline.router.arms import PLAIN, Arm
from paceline.router.policies.epsilon import Epsilon
from paceline.router.policies.fixed import Fixed

A, B = Arm(("a",)), Arm(("b",))
CONTEXT = [1.0, 0.5, 0, 0, 0, 0, 0, 0.25, 0, 0]
PLAN = Plan((), 50, range(2), {})


def written(folder: Path, rows: list[Any]) -> Path:
    path = folder / "recorded.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def logged(count: int, seed: int = 0) -> list[Line]:
    """Drawn with probabilities .5, .4, .1 by somebody; `b` is best, and its rewards are 1.6 on average."""
    random = np.random.default_rng(seed)
    arms, chances, means = (PLAIN, A, B), (0.5, 0.4, 0.1), (1.0, 1.3, 1.6)
    found = []
    for _ in range(count):
        place = random.choice(3, p=chances)
        reward = float(max(0.0, random.normal(means[place], 0.1)))
        found.append(Line(arms[place], reward, chances[place], tuple(map(float, CONTEXT)), arms))
    return found


def test_a_table_is_an_episode_on_which_every_policy_is_played(tmp_path: Path) -> None:
    rows = [{"speeds": {"none": 1.0, "a": 2.0, "b+a": 0.5 + index % 2}, "context": CONTEXT} for index in range(80)]
    episode = read_recorded(written(tmp_path, rows))
    assert isinstance(episode, Episode)
    assert episode.arms == (PLAIN, A, Arm(("a", "b")))
    assert episode.rewards[1].tolist() == [1.0, 1.5, pytest.approx(2 - 1 / 1.5)]
    assert episode.contexts[0] == tuple(CONTEXT)
    figures = run_recorded(episode, PLAN, lambda _what, _advance: None)["scenes"]["recorded"]
    assert set(figures) == {BEST_FIXED, *LEARNING}
    assert figures[BEST_FIXED]["arm"] == "a"
    assert figures[BEST_FIXED]["regret"] == 0.0
    assert 0.0 < figures["ucb"]["regret"] < 0.3


def test_a_log_is_replayed_where_the_policy_agrees_and_likely_lines_weigh_less() -> None:
    lines = logged(6000)
    assert fixed_means(lines) == pytest.approx({PLAIN: 1.0, A: 1.3, B: 1.6}, abs=0.03)
    mean, agreed = replay(Fixed(("b",)), lines, 0)
    assert mean == pytest.approx(1.6, abs=0.03)
    assert agreed == sum(line.arm == B for line in lines)
    mean, _agreed = replay(Epsilon(), lines, 0)
    assert 1.45 < mean < 1.6
    figures = run_recorded(lines, PLAN, lambda _what, _advance: None)["scenes"]["recorded"]
    assert figures[BEST_FIXED]["arm"] == "b"
    assert figures["epsilon"]["regret"] == pytest.approx(1 - figures["epsilon"]["speed"] / 2.5, abs=0.05)


def test_a_log_is_read_with_what_may_be_missing(tmp_path: Path) -> None:
    rows = [
        {"arm": "a", "speed": 1.25, "probability": 0.25, "context": CONTEXT, "arms": ["none", "a"]},
        "",
        {"arm": "b", "speed": 2},
    ]
    lines = read_recorded(written(tmp_path, rows))
    assert lines == [
        Line(A, 1.2, 0.25, tuple(CONTEXT), (PLAIN, A)),
        Line(B, 1.5, None, (1.0, *[0.0] * 9), (PLAIN, A, B)),
    ]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["not JSON"], "line 1"),
        ([{"arm": "a", "speed": 1.0}, {"speeds": {"none": 1.0}}], "line 2: no JSON object, or a log's line"),
        ([[1]], "line 1"),
        ([{"arm": "a", "speed": -1.0}], "a speed is a number"),
        ([{"arm": "a", "speed": 1e9}], "a speed is a number"),
        ([{"arm": "", "speed": 1.0}], "an arm is a text"),
        ([{"arm": "a", "speed": 1.0, "probability": 0.0}], "probability"),
        ([{"arm": "a", "speed": 1.0, "context": [1.0]}], "context has 10 numbers"),
        ([{"speeds": {"none": 1.0}}, {"speeds": {"none": 1.0, "a": 1.0}}], "the same arms"),
        ([{"speeds": {"a": 1.0}}], "'none'"),
        ([], "0 lines"),
        (["[" * 100_000], "line 1"),
    ],
)
def test_a_file_that_is_neither_is_refused_with_the_line(tmp_path: Path, rows: list[Any], said: str) -> None:
    with pytest.raises(BenchError, match=said):
        read_recorded(written(tmp_path, rows))
