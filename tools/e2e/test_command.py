"""`paceline` as a user runs it, on a tiny target: up, status, generate, top, drafters, chat, doctor, Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tiny_target import make_tiny_target

PACELINE = (sys.executable, "-m", "paceline.cli")
TOKEN = "a-token-for-this-test-only"
READY_S = 120.0
PROMPT = "the quick brown fox jumps over the lazy dog. the quick brown fox"


@dataclass(frozen=True)
class Up:
    """A deployment that `paceline up` started, and what it said."""

    process: subprocess.Popen[bytes]
    said: str
    model: Path
    state: Path

    def address(self, name: str) -> str:
        found = re.search(rf"^ +{name} +(\d+\.\d+\.\d+\.\d+:\d+)", self.said, re.MULTILINE)
        assert found, self.said
        return found[1]

    def run(self, *arguments: str, input: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*PACELINE, *arguments],
            input=input,
            env={**environment(), "PACELINE_ROUTER": self.address("router"), **variables},
            capture_output=True,
            text=True,
            check=False,
            timeout=60.0,
        )

    def told(self, *arguments: str, code: int = 0) -> Any:
        done = self.run(*arguments, "--json")
        assert done.returncode == code, done.stdout + done.stderr
        return json.loads(done.stdout)


def environment() -> dict[str, str]:
    return {**os.environ, "PACELINE_TOKEN": TOKEN, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("up")
    model, state = make_tiny_target(folder / "tiny"), folder / "state"
    where = ("--port", "0", "--http", "127.0.0.1:0", "--state", str(state))
    output = folder / "up.log"
    with output.open("wb") as log:
        process = subprocess.Popen(
            [*PACELINE, "up", "--model", str(model), *where], stdout=log, stderr=log, env=environment()
        )
    try:
        deadline = time.monotonic() + READY_S
        while "Ctrl-C stops it" not in (said := output.read_text()):
            assert process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.1)
        yield Up(process, said, model, state)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, output.read_text()
        assert "stopping" in output.read_text()
    finally:
        process.kill()
        process.wait()


def test_up_says_what_to_do_next(up: Up) -> None:
    http = re.search(r"http://127\.0\.0\.1:\d+/v1", up.said)
    assert http, up.said
    assert f"{http[0].removesuffix('v1')}\n" in up.said
    assert f"paceline chat --router {up.address('router')}" in up.said
    assert TOKEN not in up.said


def test_status_knows_everybody(up: Up) -> None:
    status = up.told("status")
    (verifier,) = status["verifiers"]
    assert (verifier["address"], verifier["model"]) == (up.address("verifier"), "tiny")
    assert verifier["drafters"] == ["lookup"]
    assert [one["address"] for one in status["trainers"]] == [up.address("trainer")]
    assert "Verifiers" in up.run("status").stdout
    refused = up.run("status", PACELINE_TOKEN="wrong")
    assert refused.returncode == 1
    assert "PACELINE_TOKEN" in refused.stderr


def test_an_answer_is_the_same_without_speculation_and_is_counted(up: Up) -> None:
    found = up.told("generate", PROMPT, "--max-tokens", "80", "--temperature", "0.7", "--compare")
    assert found["comparison"]["identical"] is True
    num_tokens = len(found["tokens"])
    assert 0 < num_tokens <= 80  # where it ends is the processor's, which rounds in its own way
    assert found["outcome"]["tokens"] == num_tokens
    deadline = time.monotonic() + 20.0  # verifiers announce themselves every two seconds
    while (work := up.told("status")["verifiers"][0]["work"])["generated_tokens"] < 2 * num_tokens:
        assert time.monotonic() < deadline, work
    assert 0 < work["session_steps"] <= work["generated_tokens"]
    assert set(work["drafters"]) <= {"lookup"}
    accepted = sum(token["source"] is not None for token in found["tokens"])
    assert accepted <= work["candidates"]["accepted"] <= work["candidates"]["proposed"]


def test_top_tells_rates(up: Up) -> None:
    busy = subprocess.Popen(
        [*PACELINE, "generate", PROMPT, "--max-tokens", "900", "--router", up.address("router")],
        env=environment(),
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 30.0
        while not (look := up.told("top", "--once"))["tokens_per_s"]:
            assert time.monotonic() < deadline, look
    finally:
        busy.kill()
        busy.wait()
    (rates,) = look["rates"].values()
    assert rates["seconds"] > 0
    assert rates["tokens_per_step"] >= 0.9
    assert "tokens/s" in up.run("top").stdout  # a pipe: one look


def test_drafters_revisions_and_a_chat(up: Up) -> None:
    assert {one["name"] for one in up.told("drafters")} == {"lookup"}
    assert up.told("revisions") == []
    chat = up.run("chat", "--max-tokens", "20", input="hello there\n\n")
    assert chat.returncode == 0, chat.stderr
    assert "20 tokens" in chat.stdout
    assert "the model itself" in chat.stdout


def test_the_doctor_finds_nothing_that_will_not_work(up: Up) -> None:
    ports = ("--port", up.address("router").rpartition(":")[2], "--http", "")
    examined = up.told("doctor", "--model", str(up.model), "--state-folder", str(up.state), *ports)
    found = {(finding["check"], finding["level"]) for finding in examined["findings"]}
    assert {("model", "ok"), ("deployment", "ok"), ("ports", "ok"), ("tokens", "ok")} <= found
    words = " ".join(finding["found"] for finding in examined["findings"])
    assert f"{up.address('router')}: a Paceline service runs there" in words
    assert TOKEN not in words


def test_a_port_that_is_taken_is_said_at_once(up: Up) -> None:
    done = up.run("up", "--port", "0", "--http", up.address("router"), "--state", str(up.state.parent / "other"))
    assert done.returncode == 1
    assert f"can't listen on {up.address('router')}: the port is taken" in done.stderr
    assert "--http" in done.stderr
