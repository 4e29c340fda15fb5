"""Format, lint rules and types, over everything that is written by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(os.environ["RUNFILES_DIR"]) / "paceline"
SOURCES = sorted(path for top in ("docs", "packages", "protos", "tools") for path in (ROOT / top).rglob("*.py"))
HAND_WRITTEN = [str(path) for path in SOURCES if not path.stem.endswith(("_pb2", "_pb2_grpc"))]


def run(*command: str, **environment: str) -> str:
    """Output of a tool that has something to say, empty if it found nothing."""
    result = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if result.returncode == 0 else result.stdout + result.stderr


def test_there_are_sources_to_check() -> None:
    assert len(HAND_WRITTEN) > 50


def test_code_is_formatted() -> None:
    findings = run("ruff", "format", "--no-cache", "--diff", "--config", str(ROOT / "ruff.toml"), *HAND_WRITTEN)
    assert not findings, f"run: ruff format\n{findings}"


def test_code_follows_the_rules() -> None:
    findings = run("ruff", "check", "--no-cache", "--config", str(ROOT / "ruff.toml"), *HAND_WRITTEN)
    assert not findings, f"run: ruff check --fix\n{findings}"


@pytest.mark.parametrize("package", ["wire", "verifier", "drafter", "router", "trainer", "cli"])
def test_types_hold(package: str) -> None:
    findings = run(
        "mypy",
        "--config-file",
        str(ROOT / "tools/lint/mypy.ini"),
        "--cache-dir",
        os.environ["TEST_TMPDIR"],
        "-p",
        f"paceline.{package}",
        MYPYPATH=os.environ["PYTHONPATH"],
    )
    assert not findings, findings
