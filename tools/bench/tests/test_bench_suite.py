"""The whole command over real processes and a tiny model, and reports of files that are there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import bench_suite
import pytest
import typer
from click.testing import Result
from page_checks import shown
from suite_samples import copied, sample
from tiny_target import make_tiny_target
from typer.testing import CliRunner

SUITE = Path(os.environ["RUNFILES_DIR"]) / "paceline" / "tools" / "bench" / "bench_suite.py"
DEADLINE_S = 240.0


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as a process."""
    return subprocess.run(
        [sys.executable, str(SUITE), *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env={**os.environ, "BUILD_WORKING_DIRECTORY": str(folder), "COLUMNS": "120"},
    )


def bench(folder: Path, *arguments: str) -> Result:
    """The command in this process, where nothing is measured."""
    app = typer.Typer()
    app.command()(bench_suite.main)
    return CliRunner().invoke(app, arguments, env={"BUILD_WORKING_DIRECTORY": str(folder), "COLUMNS": "120"})


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_files_that_are_there_make_a_report_that_compares_with_itself(tmp_path: Path) -> None:
    copied(tmp_path / "kept")
    result = bench(tmp_path, "--from", "kept", "--out", "one.html", "--json", "one.json")
    assert result.exit_code == 0, result.output
    figures = read(tmp_path / "one.json")
    assert figures["parts"]["speed"]["result"] == sample("speed")
    assert not figures["failed"]
    assert len(figures["figures"]) > 20
    again = bench(tmp_path, "--from", "kept", "--out", "two.html", "--json", "two.json", "--against", "one.json")
    assert again.exit_code == 0, again.output
    assert read(tmp_path / "two.json")["against"]["obstacles"] == {}
    assert "0 are better beyond the spread, 0 worse" in shown((tmp_path / "two.html").read_text())


def test_a_file_that_is_broken_fails_alone(tmp_path: Path) -> None:
    kept = copied(tmp_path / "kept")
    (kept / "acceptance.json").write_text('{"mixes": 3}')
    (kept / "adaptation.json").unlink()
    result = bench(tmp_path, "--from", "kept", "--json", "out.json")
    assert result.exit_code == 1
    states = {name: part["state"] for name, part in read(tmp_path / "out.json")["parts"].items()}
    assert states == {"speed": "done", "acceptance": "failed", "routing": "done", "adaptation": "not run"}
    assert "acceptance failed: acceptance: mixes: Input should be" in shown((tmp_path / "report.html").read_text())


def test_a_tiny_model_is_measured_goes_on_where_it_was_and_fails_in_part(tmp_path: Path) -> None:
    make_tiny_target(tmp_path / "model")
    asked = {"question_id": 1, "category": "qa", "turns": ["Who jumps over the dog?"]}
    (tmp_path / "questions.jsonl").write_text(json.dumps(asked) + "\n")
    options = ["--quick", "--only", "speed,acceptance", "--questions", "questions.jsonl", "--model"]
    options += [str(tmp_path / "model"), "--work", "work", "--json", "out.json", "--repeat", "2", "--mixes"]
    first = run(tmp_path, *options, "oracle")
    assert first.returncode == 1, first.stderr
    assert "acceptance: begins" in first.stderr
    found = read(tmp_path / "out.json")
    assert found["parts"]["speed"]["state"] == "done"
    assert found["parts"]["speed"]["result"]["identical"]["paceline"] == [1, 1]
    assert found["parts"]["acceptance"]["state"] == "failed"
    assert found["parts"]["routing"]["why"] == "--only left it out"
    words = shown((tmp_path / "report.html").read_text())
    assert "acceptance failed: it ended with exit code 1" in words
    assert "must name some of suffix" in words
    assert "left out by --quick" in words
    record = (tmp_path / "work" / "speed.record.json").read_text()
    again = run(tmp_path, *options, "oracle")
    assert "speed: measured before" in again.stderr
    assert (tmp_path / "work" / "speed.record.json").read_text() == record


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--only", "cooking"), "--only names 'cooking'"),
        (("--questions", "nowhere.jsonl"), "--questions nowhere.jsonl: there is no such file"),
        (("--out", "no/report.html"), "there is no folder"),
        (("--from", "."), "has none of speed.json"),
        (("--from", ".", "--against", "old.json"), "--against old.json: it is not what this command's --json writes"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_run(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    (tmp_path / "old.json").write_text("{}")
    result = bench(tmp_path, *arguments)
    assert result.exit_code == 1
    assert words in " ".join(result.output.split())
