"""Each service's wheel, with what it declares and nothing else, is a service that serves; so is the command's."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from clean_environment import Environment, make_environment
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tiny_target import make_tiny_target

ROOT = Path(os.environ["RUNFILES_DIR"]) / "paceline"
SERVICES = ("drafter", "router", "trainer", "verifier")
READY_S = 120.0
POLL_S = 0.05


def wheel(package: str) -> Path:
    (path,) = (ROOT / package / "wheel").glob("*.whl")
    return path


def options(service: str, folder: Path) -> list[str]:
    """What a service can't do without."""
    needed = {
        "drafter": ["--verifiers", "127.0.0.1:1"],
        "router": ["--state", f"sqlite:///{folder / 'router.db'}"],
        "trainer": ["--data", str(folder / "trainer")],
    }
    if service == "verifier":
        return ["--model", str(make_tiny_target(folder / "model"))]
    return needed[service]


@contextmanager
def serving(environment: Environment, service: str, folder: Path) -> Iterator[str]:
    """Runs the console script; gives the address, and ends it with SIGTERM."""
    ready_file, log = folder / "ready", folder / "log"
    script = str(environment.folder / "bin" / f"paceline-{service}")
    arguments = ["serve", "--listen", "127.0.0.1:0", "--ready-file", str(ready_file), *options(service, folder)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [script, *arguments], env=environment.variables, cwd=folder, stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + READY_S
        while not ready_file.exists():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(POLL_S)
        yield json.loads(ready_file.read_text())["address"]
        process.terminate()
        assert process.wait(30) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def test_traces_without_their_extra_end_with_what_to_install(tmp_path: Path) -> None:
    environment = make_environment(tmp_path / "clean", [wheel("protos"), wheel("packages/router")])
    script = str(environment.folder / "bin" / "paceline-router")
    arguments = ["serve", "--listen", "127.0.0.1:0", "--state", "memory:", "--otlp-endpoint", "127.0.0.1:4317"]
    ended = subprocess.run(
        [script, *arguments], env=environment.variables, capture_output=True, text=True, timeout=READY_S, check=False
    )
    assert ended.returncode == 1, ended.stderr
    assert "pip install 'paceline-router[traces]'" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_runs_from_its_wheel_alone(service: str, tmp_path: Path) -> None:
    environment = make_environment(tmp_path / "clean", [wheel("protos"), wheel(f"packages/{service}")])
    for other in SERVICES:
        command = [str(environment.python), "-c", f"import paceline.{other}"]
        found = subprocess.run(command, env=environment.variables, capture_output=True, check=False).returncode == 0
        assert found == (other == service), other
    with serving(environment, service, tmp_path) as address, grpc.insecure_channel(address) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_the_command_runs_from_its_wheel_alone(tmp_path: Path) -> None:
    environment = make_environment(tmp_path / "clean", [wheel("protos"), wheel("packages/cli")])

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(environment.folder / "bin" / "paceline"), *arguments]
        return subprocess.run(
            command, env=environment.variables, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    assert "doctor" in run("--help").stdout
    done = run("doctor", "--json")
    findings = {finding["check"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert findings["wheels"]["level"] == "ok", findings["wheels"]
    assert findings["wheels"]["found"].startswith("paceline 0.")
    assert findings["model"]["level"] == "fail"  # its package is nobody's requirement
    assert not [finding for finding in findings.values() if "couldn't be looked at" in finding["found"]]
    assert done.returncode == 1
    missing = run("up")
    assert missing.returncode == 1
    assert "paceline-router, paceline-verifier" in missing.stderr
    assert "pip install 'paceline[up]'" in missing.stderr
