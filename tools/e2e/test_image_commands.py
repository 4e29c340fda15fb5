"""What each image would run: installed in a clean environment, with its variables, its start and its health check.

The files are read; no container engine is needed. What an engine would add is a file system that can't be written to,
and a base image.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from clean_environment import Environment, make_environment
from starts import SERVICES, image_of
from tiny_target import make_tiny_target

ROOT = Path(os.environ["RUNFILES_DIR"]) / "paceline"
DEADLINE_S = 120.0
POLL_S = 0.05
NO_TORCH = ("drafter", "router", "trainer")


def wheel(package: str) -> Path:
    (path,) = (ROOT / package / "wheel").glob("*.whl")
    return path


def needed(service: str, folder: Path) -> list[str]:
    """What an image's user has to say."""
    if service == "verifier":
        return ["--model", str(make_tiny_target(folder / "model"))]
    return ["--verifiers", "127.0.0.1:1"] if service == "drafter" else []


def variables(service: str, environment: Environment, folder: Path) -> dict[str, str]:
    """The image's, with folders of this test and free ports."""
    inside = {**image_of(ROOT, service).variables}
    path = inside.pop("PATH")
    assert path == "/opt/paceline/bin:$PATH"
    for name, value in inside.items():
        inside[name] = value.replace("/var/", f"{folder}/").replace("0.0.0.0:", "127.0.0.1:")
        if name in ("PACELINE_LISTEN", "PACELINE_HTTP", "PACELINE_METRICS_LISTEN"):
            inside[name] = "127.0.0.1:0"
    for folder_name in ("lib", "cache"):
        (folder / folder_name / "paceline").mkdir(parents=True, mode=0o700)
    return {**inside, "PATH": f"{environment.folder / 'bin'}:/usr/bin:/bin"}


@pytest.mark.parametrize("service", SERVICES)
def test_what_an_image_runs_serves_is_healthy_and_ends_at_sigterm(service: str, tmp_path: Path) -> None:
    image = image_of(ROOT, service)
    environment = make_environment(
        tmp_path / "opt", [wheel("protos"), wheel(f"packages/{service}")], extras=image.extras
    )
    if service in NO_TORCH:
        assert not {"torch", "transformers"} & set(environment.distributions)
    inside = variables(service, environment, tmp_path)
    ready_file, log = tmp_path / "ready", tmp_path / "log"
    program, *arguments = [*image.start, "--ready-file", str(ready_file), *needed(service, tmp_path)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [environment.folder / "bin" / program, *arguments],
            env=inside,
            cwd=tmp_path / "lib" / "paceline",
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not ready_file.exists():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(POLL_S)
        address = json.loads(ready_file.read_text())["address"]
        assert asked(image.health, address, environment, inside) == 0
        process.terminate()
        assert process.wait(DEADLINE_S) == 0, log.read_text()
        assert asked(image.health, address, environment, inside) == 1
    finally:
        process.kill()
        process.wait()


def asked(health: list[str], address: str, environment: Environment, inside: dict[str, str]) -> int:
    """The exit code of the image's health check, asking where the service is in fact."""
    program, _, *rest = health
    command = [str(environment.folder / "bin" / program), address, *rest]
    return subprocess.run(command, env=inside, capture_output=True, timeout=DEADLINE_S, check=False).returncode
