"""docs/deploying.md: every command in it is run, or checked, or said not to be."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from starts import SERVICES

from paceline.drafter.__main__ import COMMANDS as DRAFTER
from paceline.router.__main__ import COMMANDS as ROUTER
from paceline.trainer.__main__ import COMMANDS as TRAINER
from paceline.verifier.__main__ import COMMANDS as VERIFIER
from paceline.wire.health import HealthSettings
from paceline.wire.settings import load_settings

ROOT = Path(os.environ["RUNFILES_DIR"]) / "paceline"
COMMANDS = {"drafter": DRAFTER, "router": ROUTER, "trainer": TRAINER, "verifier": VERIFIER}
BLOCK = re.compile(r"(?:<!-- (?P<said>[^>]*) -->\n)?```sh\n(?P<lines>.*?)```", re.DOTALL)
FENCE = re.compile(r"^```sh$", re.MULTILINE)
OURS = re.compile(r"(?<![\w/.-])(?:packages|tools)/[\w./-]*\w")
RUN, NOT_RUN = "run by: tools/deploy/test_documentation.py", "not run: "  # as in tools/docs/fences.py
TOOLS = ("kubectl", "systemd-analyze")


def text() -> str:
    return (ROOT / "docs" / "deploying.md").read_text()


def blocks(said: str | None) -> list[str]:
    """Those with this comment above them; None: with no comment, so their flags are checked."""
    return [found["lines"] for found in BLOCK.finditer(text()) if found["said"] == said]


def lines_of(block: str) -> list[str]:
    return [line for line in block.splitlines() if line.strip()]


def test_every_command_says_what_becomes_of_it() -> None:
    said = [found["said"] for found in BLOCK.finditer(text())]
    assert len(said) == len(FENCE.findall(text()))
    assert all(words is None or words == RUN or words.startswith(NOT_RUN) for words in said)


def test_every_file_that_is_named_exists() -> None:
    named = {path for path in OURS.findall(text()) if "/e2e/" not in path}
    assert len(named) > 10
    assert not [path for path in named if not (ROOT / path).exists()]


@pytest.mark.parametrize("line", [line for block in blocks(None) for line in lines_of(block)])
def test_a_command_has_only_flags_that_exist(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PACELINE_")]:
        monkeypatch.delenv(name)
    program, *arguments = shlex.split(line, comments=True)
    if program == "paceline-health":
        load_settings(HealthSettings, arguments, program)
        return
    service = program.removeprefix("paceline-")
    assert service in SERVICES, line
    load_settings(COMMANDS[service][arguments[0]].settings, arguments[1:], program)


@pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason=f"{' or '.join(TOOLS)} is not on PATH")
def test_what_is_said_to_be_run_runs(tmp_path: Path) -> None:
    for folder in ("packages", "tools/deploy"):  # files, not a test's links to them
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=lambda at, names: ignored(Path(at), names))
    (block,) = blocks(RUN)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", block],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def ignored(folder: Path, names: list[str]) -> list[str]:
    """Of packages only units matter."""
    return [name for name in names if name in ("src", "tests", "bundles", "wheel") or name == "__pycache__"]
