"""The whole tool, with a tiny model over real processes. Nothing here is about how fast anything is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from figures import SYSTEMS
from questions import GROUPS
from tiny_target import make_tiny_target

SPEED = Path(os.environ["RUNFILES_DIR"]) / "paceline" / "tools" / "bench" / "speed.py"
DEADLINE_S = 240.0
SCOPES = {"all", *GROUPS}
TURNS = {
    "writing": ["Tell me of a village by the river.", "And now of the bridge."],
    "translation": ["Translate: numbers 0 1 2 3."],
    "summarization": ["Summarize: the quick brown fox jumps over the lazy dog."],
    "qa": ["Who jumps over the dog?"],
    "math_reasoning": ["What is 1 and 2?"],
    "rag": ["There was an old bridge. What was old?"],
}
ANSWERS = sum(map(len, TURNS.values()))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_target(tmp_path_factory.mktemp("model"))


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    records = [
        {"question_id": number, "category": category, "turns": turns}
        for number, (category, turns) in enumerate(TURNS.items())
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SPEED), *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env={**os.environ, "BUILD_WORKING_DIRECTORY": str(folder), "COLUMNS": "120"},
    )


def test_all_four_systems_are_compared(model: Path, questions: Path, tmp_path: Path) -> None:
    arguments = ("--questions", questions.name, "--max-new-tokens", "8", "--concurrency", "2", "--json", "out.json")
    result = run(tmp_path, *arguments, "--model", str(model), "--long-prompt", "500")
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    assert set(report["tokens_per_second"]) == set(SYSTEMS)
    for by_group in (*report["tokens_per_second"].values(), *report["ratios"].values(), report["tokens_per_step"]):
        assert set(by_group) == SCOPES
        assert all(value > 0.0 for value in by_group.values())
    assert set(report["ratios"]) == {"on_over_off", "on_over_prompt_lookup", "off_over_transformers_plain"}
    assert set(report["spread"]) == {"tokens_per_second", "ratios"}
    assert report["identical"]["paceline"] == [ANSWERS, ANSWERS]
    assert report["identical"]["transformers_prompt_lookup"][1] == ANSWERS
    assert report["different"] == []
    assert set(report["concurrency"]) == {"2"}
    for system in ("off", "on"):
        assert report["concurrency"]["2"][system]["identical"] == [ANSWERS, ANSWERS]
    assert set(report["interference"]) == {"off", "on"}
    for gaps in report["interference"].values():
        assert gaps["prompt_tokens"] == 500
        assert gaps["longest_gap_ms"] > 0.0
        assert gaps["usual_gap_ms"] > 0.0
    assert report["complete"] is True
    assert (report["questions"], report["max_new_tokens"], report["repeat"]) == (6, 8, 1)
    assert (report["dtype"], report["transformers"]["dtype"]) == ("bfloat16", "bfloat16")
    assert {
        "python",
        "torch",
        "transformers",
        "grpcio",
        "paceline-router",
        "paceline-verifier",
        "paceline-drafter",
    } <= (set(report["versions"]))
    assert {"processor", "cores", "memory_gib", "flags"} <= set(report["machine"])
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    assert "on ÷ off" in result.stdout
    assert f"{ANSWERS} of {ANSWERS}" in result.stdout


def test_without_transformers_its_columns_are_absent(model: Path, questions: Path, tmp_path: Path) -> None:
    arguments = ("--limit", "2", "--max-new-tokens", "4", "--repeat", "2", "--json", "out.json", "--dtype", "float32")
    result = run(tmp_path, "--questions", str(questions), *arguments, "--without-transformers", "--model", str(model))
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    assert set(report["tokens_per_second"]) == {"paceline_off", "paceline_on"}
    assert set(report["identical"]) == {"paceline"}
    assert report["transformers"] is None
    assert report["questions"] == 2
    assert "--without-transformers" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--questions", "nowhere.jsonl"), "nowhere.jsonl: can't be read"),
        (("--questions", "bad.jsonl"), "line 1: unknown category"),
        (("--questions", "questions.jsonl", "--drafters", "oracle"), "must name some of suffix, recycling"),
        (("--questions", "questions.jsonl", "--concurrency", "0"), "--concurrency is '0'"),
        (("--questions", "questions.jsonl", "--transformers-dtype", "int3"), "must be one of float32"),
        (("--questions", "questions.jsonl", "--verifier-args", "'"), "--verifier-args"),
        (("--questions", "questions.jsonl", "--json", "no/out.json"), "there is no folder"),
        (("--questions", "questions.jsonl", "--verifier-args", "--max-nodes x"), "--max-nodes: Input should be"),
    ],
)
def test_what_is_wrong_is_said(questions: Path, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    (tmp_path / "bad.jsonl").write_text('{"question_id": 1, "category": "cooking", "turns": ["Salt?"]}\n')
    result = run(tmp_path, *arguments)
    assert result.returncode == 1
    assert words in " ".join(result.stderr.split())
    assert "Traceback" not in result.stdout + result.stderr
