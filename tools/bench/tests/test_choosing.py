"""The whole tool, with a tiny model over real processes. Nothing here is about how fast anything is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_target import make_tiny_target

CHOOSING = Path(os.environ["RUNFILES_DIR"]) / "paceline" / "tools" / "bench" / "choosing.py"
DEADLINE_S = 240.0


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    records = [
        {"question_id": 1, "category": "qa", "turns": ["Who jumps over the dog?"]},
        {"question_id": 2, "category": "writing", "turns": ["Tell me of a village.", "And of the bridge."]},
    ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return subprocess.run(
        [sys.executable, str(CHOOSING), "--questions", "questions.jsonl", *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env={**os.environ, "BUILD_WORKING_DIRECTORY": str(folder), "COLUMNS": "120"},
    )


def test_policies_are_compared_with_arms_set_by_hand(tmp_path: Path) -> None:
    model = make_tiny_target(tmp_path / "model")
    arguments = ("--max-new-tokens", "8", "--segment-tokens", "4", "--policies", "linucb,ucb", "--json", "out.json")
    arms = ("--arms", "none; suffix; late; random; suffix+recycling")
    result = run(tmp_path, *arguments, *arms, "--model", str(model), "--dtype", "float32")
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    by_hand = {"none", "suffix", "late", "random", "recycling+suffix"}
    assert set(report["tokens_per_second"]) == {*by_hand, "linucb", "ucb"}
    assert report["best_arm"] in by_hand
    assert report["identical"] == [3 * 6, 3 * 6]
    for policy in ("linucb", "ucb"):
        assert report["policies"][policy]["over_best"] > 0.0
        beliefs = {belief["arm"] for belief in report["beliefs"][policy]}
        assert {"none", "late", "random", "late+random", "late+random+recycling+suffix"} <= beliefs
        assert sum(belief["share"] for belief in report["beliefs"][policy]) == pytest.approx(1.0, abs=0.02)
    assert report["complete"] is True
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    assert "best set by hand" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--policies", "luck"), "--policies is 'luck'; it must be one of"),
        (("--hindering", "slow"), "--hindering is 'slow'; it must be one of late, random"),
        (("--arms", "suffix; nobody"), "no drafter 'nobody'"),
        (("--json", "no/out.json"), "there is no folder"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    result = run(tmp_path, *arguments)
    assert result.returncode == 1
    assert words in " ".join(result.stderr.split())
    assert "Traceback" not in result.stdout + result.stderr
