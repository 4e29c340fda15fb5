"""The examples of docs/examples, run as a reader would run them, against real services."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from tiny_target import make_tiny_target

from paceline.cli.stack import Stack
from paceline.v1 import router_pb2, router_pb2_grpc

EXAMPLES = Path(os.environ["RUNFILES_DIR"]) / "paceline" / "docs" / "examples"
DEADLINE_S = 120.0
EXPORT_S = 240.0  # loads torch, transformers and onnx, on machines that do other things too


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A router with the example's policy, a drafter with the example's strategy, and what else there is to be."""
    folder = tmp_path_factory.mktemp("examples")
    model = make_tiny_target(folder / "model")
    with Stack(folder / "stack") as stack:
        router = ("serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--state", "memory:")
        stack.spawn("router", str(EXAMPLES / "cautious.py"), *router, "--policy", "cautious")
        stack.wait("router")
        announce = ("--router", stack.services["router"].address)
        stack.start("verifier", "verifier", "--model", str(model), "--drafting", "always", *announce)
        stack.start("suffix", "drafter", "--name", "suffix", "--strategies", "suffix", *announce)
        stack.spawn("bigram", str(EXAMPLES / "bigram.py"), "serve", "--strategies", "bigram", *announce)
        stack.wait()
        stack.wait_connected(stack.services["router"].address, ["suffix", "bigram"], timeout_s=DEADLINE_S)
        yield stack


def of_example(name: str, stack: Stack, **replaced: str) -> str:
    """An example's text with the addresses of this deployment."""
    text = (EXAMPLES / name).read_text()
    addresses = {"127.0.0.1:7700": stack.services["router"].address, "127.0.0.1:8000": stack.services["router"].http}
    for there, here in {**addresses, **replaced}.items():
        text = text.replace(there, here)
    return text


def run(*command: str, folder: Path) -> str:
    """What it printed. It must end well."""
    result = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, cwd=folder, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def status_of(stack: Stack) -> router_pb2.GetStatusResponse:
    with grpc.insecure_channel(stack.services["router"].address) as channel:
        return router_pb2_grpc.RouterStub(channel).GetStatus(router_pb2.GetStatusRequest(), timeout=10.0)


def test_a_grpc_client_streams_names_sources_cancels_and_goes_on(stack: Stack, tmp_path: Path) -> None:
    said = run(sys.executable, "-c", of_example("grpc_client.py", stack), folder=tmp_path)
    *streamed, counted, resumed = said.splitlines()
    assert re.fullmatch(r"60 tokens in \d+ steps and [\d.]+ s", counted)
    assert len(streamed) >= 5
    begun, rest = map(int, re.findall(r"\d+", resumed))
    assert begun >= 20
    assert begun + rest == 60
    assert resumed.endswith("the same answer is True")


def test_openais_client_gets_chats_streams_forms_and_the_same_text_whoever_drafts(stack: Stack, tmp_path: Path) -> None:
    said = run(sys.executable, "-c", of_example("openai_client.py", stack), folder=tmp_path)
    assert re.search(r"^chat: .+", said, re.MULTILINE)
    assert re.search(r"^stream: .+", said, re.MULTILINE)
    form = re.search(r"^form: (.+)$", said, re.MULTILINE)
    assert form is not None
    assert "'kilometres': " in form[1]
    assert said.endswith("the same text each time: True\n")


def test_curl_shows_health_and_a_stream(stack: Stack, tmp_path: Path) -> None:
    assert shutil.which("curl"), "this test needs curl on PATH"
    said = run("bash", "-euo", "pipefail", "-c", of_example("curl.sh", stack), folder=tmp_path)
    health, _, stream = said.partition("}")
    assert '"status":"ok"' in health
    *events, done = [line.removeprefix("data: ") for line in stream.splitlines() if line.startswith("data: ")]
    assert done == "[DONE]"
    assert json.loads(events[-1])["usage"]["completion_tokens"] == 40


def test_an_edge_drafter_is_exported_dials_and_is_known(stack: Stack, tmp_path: Path) -> None:
    model = make_tiny_target(tmp_path / "model", seed=1)
    script = of_example("edge_drafter.sh", stack, **{"HuggingFaceTB/SmolLM2-135M-Instruct": str(model)})
    with shell(script, tmp_path) as process:
        stack.wait_connected(stack.services["router"].address, ["edge"], timeout_s=EXPORT_S)
        assert process.poll() is None
        (edge,) = [member for member in status_of(stack).members if member.name == "edge"]
        assert list(edge.strategies) == ["suffix", "onnx_lm"]


@contextmanager
def shell(script: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a script with the console script `paceline-drafter` on its PATH; ends all that it started."""
    program = folder / "bin" / "paceline-drafter"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m paceline.drafter "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    path = f"{program.parent}:{os.environ['PATH']}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["bash", "-eu", "-c", script],
            cwd=folder,
            env={**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(DEADLINE_S)


def test_the_examples_policy_and_strategy_are_at_work(stack: Stack, tmp_path: Path) -> None:
    chosen = of_example("grpc_client.py", stack)
    for _ in range(2):
        run(sys.executable, "-c", chosen, folder=tmp_path)
    asked = {"temperature=0.8": "temperature=0.0", "max_tokens=60": "max_tokens=300, ignore_eos=True"}  # repeats itself
    for name in ("bigram", "suffix"):
        asked["sampling=types"] = f'speculation=types_pb2.Speculation(drafters=["{name}"]),\n        sampling=types'
        named = of_example("grpc_client.py", stack, **asked)
        assert {f"{name}/{name}", "-"} <= set(run(sys.executable, "-c", named, folder=tmp_path).split())
    status = status_of(stack)
    assert status.policy == "cautious"
    assert {tuple(arm.drafters) for arm in status.arms if arm.pulls > 0.0} >= {(), ("bigram",), ("suffix",)}
