"""The whole tool, with a tiny model over real processes. Nothing here is about how good any drafter is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import acceptance
import pytest
import typer
from tiny_target import make_tiny_target
from typer.testing import CliRunner

from paceline.drafter.vocabulary import BRIDGES

TOOL = Path(os.environ["RUNFILES_DIR"]) / "paceline" / "tools" / "bench" / "acceptance.py"
DEADLINE_S = 240.0
TURNS = {
    "writing": ["Tell me of a village by the river.", "And now of the bridge."],
    "coding": ["numbers 0 1 2 3 4 5"],
    "qa": ["Who jumps over the dog?"],
}
ANSWERS = sum(map(len, TURNS.values()))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_target(tmp_path_factory.mktemp("model"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    records = [
        {"question_id": number, "category": category, "turns": turns}
        for number, (category, turns) in enumerate(TURNS.items())
    ]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return tmp_path


def run(folder: Path, model: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(TOOL), "--questions", "questions.jsonl", "--model", str(model), *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env={**os.environ, "BUILD_WORKING_DIRECTORY": str(folder), "COLUMNS": "120"},
    )


def test_each_mix_is_measured_and_changes_nothing(model: Path, folder: Path) -> None:
    mixes = "suffix; suffix + recycling; pair = suffix(max-nodes=8) & recycling"
    arguments = ("--max-new-tokens", "24", "--json", "out.json", "--bridge-tokens", "40")
    tokenizer = str(model / "tokenizer.json")
    result = run(folder, model, "--drafters", mixes, *arguments, "--bridge-tokenizer", tokenizer)
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads((folder / "out.json").read_text())
    assert list(report["mixes"]) == ["suffix", "suffix + recycling", "pair"]
    for mix in report["mixes"].values():
        assert mix["identical"] == [ANSWERS, ANSWERS]
        assert mix["tokens"] == ANSWERS * 24
        assert mix["tokens_per_step"] == pytest.approx(1 + sum(mix["tokens_by_depth"]), abs=0.01)
        assert len(mix["acceptance_by_depth"]) == len(mix["tested_by_depth"]) > 0
        assert all(0.0 <= share <= 1.0 for share in mix["acceptance_by_depth"])
        assert mix["draft_ms_per_token"] > 0.0
        assert mix["wire_bytes_per_token"] > 0.0
    pair = report["mixes"]["pair"]["drafters"]
    assert {name: set(part["strategies"]) for name, part in pair.items()} == {
        "suffix": {"suffix"},
        "recycling": {"recycling"},
    }
    assert set(report["mixes"]["suffix + recycling"]["drafters"]) == {"suffix+recycling"}
    assert report["processes"]["pair"][0] == ["--name", "suffix", "--strategies", "suffix", "--max-nodes=8"]
    assert {"processor", "cores"} <= set(report["machine"])
    assert {"torch", "paceline-verifier"} <= set(report["versions"])
    assert set(report["bridges"]) == set(BRIDGES)
    assert all(0.0 <= share <= 1.0 for bridge in report["bridges"].values() for share in bridge.values())
    assert set(report["bridge_texts"]) == {"prose", "code"}
    assert (folder / "out.png").read_bytes().startswith(b"\x89PNG")
    assert f"{ANSWERS} of {ANSWERS}" in result.stdout


def test_what_was_finished_is_kept_when_a_later_mix_can_not_start(model: Path, folder: Path) -> None:
    mixes = ("--drafters", "good = suffix; bad = suffix(tls-cert=no.pem, tls-key=no.pem)")
    arguments = ("--limit", "2", "--max-new-tokens", "4", "--temperature", "0.8", "--seed", "7", "--json", "out.json")
    result = run(folder, model, *mixes, *arguments)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "bad: suffix ended with exit code" in " ".join(result.stderr.split())
    assert "Traceback" not in result.stdout
    report = json.loads((folder / "out.json").read_text())
    assert list(report["mixes"]) == ["good"]
    assert (report["complete"], report["temperature"], report["seed"]) == (False, 0.8, 7)
    same, of = report["mixes"]["good"]["identical"]
    assert same == of > 0
    assert "not complete" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--drafters", "suffix,recycling"), "is no strategy's name; a process is written"),
        (("--drafters", "oracle"), "--drafters 'oracle'"),
        (("--drafters", "suffix(max-nodes=0)"), "--max-nodes: Input should be greater than or equal to 1"),
        (("--drafters", "suffix(no-such=1)"), "no-such"),
        (("--drafters", "suffix(router=x)"), "option 'router' can't be given here"),
        (("--drafters", "suffix", "--drafting", "never"), "--drafting is 'never'; it must be one of always, auto"),
        (("--drafters", "suffix", "--bridge-tokenizer", "nowhere"), "--bridge-tokenizer nowhere: can't be read"),
        (("--drafters", "suffix", "--json", "no/out.json"), "there is no folder"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(
    folder: Path, arguments: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(folder))
    monkeypatch.setattr(acceptance, "measure_mixes", lambda *_arguments: pytest.fail("it started"))
    app = typer.Typer()
    app.command()(acceptance.main)
    result = CliRunner().invoke(app, ["--questions", "questions.jsonl", *arguments])
    assert result.exit_code == 1, result.output
    assert words in " ".join(result.output.split())
