"""Bazel itself refuses a service that depends on another: shown in a copy of the workspace with an intruder."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(os.environ["RUNFILES_DIR"]) / "paceline"
INTRUDER = """
load("//tools/build_defs:defs.bzl", "py_library")

py_library(
    name = "intruder",
    deps = ["//packages/router"],
)
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """The build files without the Python: enough to analyse targets."""
    copy = tmp_path / "workspace"
    for path in ROOT.rglob("*"):
        wanted = path.name in ("BUILD.bazel", "WORKSPACE", "cpu.lock") or path.suffix in (".bzl", ".proto")
        if wanted and path.is_file():
            target = copy / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    return copy


def analyse(workspace: Path, tmp_path: Path, target: str) -> subprocess.CompletedProcess[str]:
    bazel = shutil.which("bazelisk") or shutil.which("bazel")
    assert bazel, "this test needs bazel on PATH"
    venv = Path(os.environ["RUNFILES_DIR"]) / "pip" / "venv"
    return subprocess.run(
        [bazel, f"--output_user_root={tmp_path / 'bazel'}", "--batch", "build", "--nobuild", target],
        cwd=workspace,
        env={**os.environ, "PACELINE_VENV": str(venv.resolve()), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_service_cannot_depend_on_another(workspace: Path, tmp_path: Path) -> None:
    allowed = analyse(workspace, tmp_path, "//packages/drafter")
    assert allowed.returncode == 0, allowed.stderr
    folder = workspace / "packages" / "drafter" / "intruder"
    folder.mkdir()
    (folder / "BUILD.bazel").write_text(INTRUDER)
    refused = analyse(workspace, tmp_path, "//packages/drafter/intruder")
    assert refused.returncode != 0
    assert "target '//packages/router:router' is not visible from target" in refused.stderr
