"""Bazel itself refuses a service that depends on another: shown in a copy of the workspace with an intruder."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(os.environ["RUNFILES_DIR"]) / "paceline"
SERVICES = ("cli", "drafter", "router", "trainer", "verifier")
PAIRS = [(service, other) for service in SERVICES for other in SERVICES if other != service]
LOAD = 'load("//tools/build_defs:defs.bzl", "py_library")\n'
INTRUDER = 'py_library(name = "on_{other}", deps = ["//packages/{other}"])\n'


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """The build files without the Python: enough to analyse targets."""
    copy = tmp_path / "workspace"
    for path in ROOT.rglob("*"):
        wanted = path.name in ("BUILD.bazel", "WORKSPACE") or path.suffix in (".bzl", ".lock", ".proto")
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
        [bazel, f"--output_user_root={tmp_path / 'bazel'}", "--batch", "build", "--nobuild", "--keep_going", target],
        cwd=workspace,
        env={**os.environ, "PACELINE_VENV": str(venv.resolve()), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_no_service_can_depend_on_another(workspace: Path, tmp_path: Path) -> None:
    allowed = analyse(workspace, tmp_path, "//packages/...")
    assert allowed.returncode == 0, allowed.stderr
    for service in SERVICES:
        folder = workspace / "packages" / service / "intruder"
        folder.mkdir()
        targets = [INTRUDER.format(other=other) for asker, other in PAIRS if asker == service]
        (folder / "BUILD.bazel").write_text(LOAD + "".join(targets))
    refused = analyse(workspace, tmp_path, "//packages/...")
    assert refused.returncode != 0
    refusals = [line for line in refused.stderr.splitlines() if "is not visible from" in line]
    for service, other in PAIRS:
        intruder = f"'//packages/{service}/intruder:on_{other}'"
        assert any(f"'//packages/{other}:{other}'" in line and intruder in line for line in refusals), refused.stderr
