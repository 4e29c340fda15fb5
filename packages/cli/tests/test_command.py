"""Settings have one name each, as options, variables and keys of a file; errors are one line with what to do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from fake_deployment import FakeRouter, serving
from running import lines, run

from paceline.cli.app import PANELS
from paceline.wire.errors import PacelineError, Reason

SECRET = "a-token-that-nobody-may-see"
COMMANDS = [command.__name__ for commands in PANELS.values() for command in commands]


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "bench"])
def test_every_command_has_help_and_takes_the_settings(name: str) -> None:
    done = run(name, "--help", env={"COLUMNS": "200"})
    assert done.exit_code == 0
    for option in ("--token", "--tls-ca", "--tls-client-cert", "--tls-client-key", "--config", "PACELINE_TOKEN"):
        assert option in done.output
    assert name == "up" or "--router" in done.output


def test_no_arguments_and_the_version() -> None:
    assert all(name in run().output for name in COMMANDS)
    assert run("--version").output.startswith("paceline 0.")


def test_flags_go_before_variables_and_those_before_the_file(tmp_path: Path) -> None:
    router = FakeRouter(token=SECRET)
    config = tmp_path / "paceline.yaml"
    with serving(router):
        config.write_text(f"router: {router.address}\ntoken: {SECRET}\n")
        assert run("status", "--config", str(config)).exit_code == 0
        assert run("status", env={"PACELINE_CONFIG": str(config)}).exit_code == 0
        wrong = run("status", "--config", str(config), env={"PACELINE_TOKEN": "another"})
        assert wrong.exit_code == 1
        variables = {"PACELINE_TOKEN": "another", "PACELINE_ROUTER": f"{router.address},127.0.0.1:1"}
        assert run("status", "--token", SECRET, env=variables).exit_code == 0


def test_a_wrong_token_is_said_with_what_to_do_and_never_shown() -> None:
    router = FakeRouter(token="right")
    with serving(router):
        done = run("status", "--router", router.address, env={"PACELINE_TOKEN": SECRET})
    assert done.exit_code == 1
    (line,) = lines(done.stderr)
    assert line.startswith("paceline status: the router at ")
    assert "PACELINE_TOKEN" in line
    assert SECRET not in done.output


@pytest.mark.parametrize("name", ["status", "drafters", "top", "revisions", "chat"])
def test_nobody_there_is_one_line(name: str) -> None:
    done = run(name, "--router", "127.0.0.1:1")
    assert done.exit_code == 1
    (line,) = lines(done.stderr)
    assert "127.0.0.1:1 can't be reached: nobody listens there" in line
    assert "paceline up" in line
    assert not done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("status", "--max-message-bytes", "3"),
        ("status", "--config", "/no/such/file.yaml"),
        ("status", "--no-such-option"),
        ("status", "--router", "host:1\nhost:2"),
        ("status", "--router", "host"),
        ("revisions", "--trainer", "none"),
        ("nothing",),
        ("generate", ""),
        ("generate", "a", "--file", "b"),
        ("generate", "a", "--compare", "--no-speculation"),
        ("revisions", "not-hexadecimal"),
        ("top", "--metrics", "nonsense"),
        ("top", "--metrics", "ftp://host/metrics"),
        ("doctor", "--only", "nonsense"),
        ("up", "--http", "nonsense", "--port", "0"),
    ],
)
def test_what_makes_no_sense_is_usage(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.exit_code == 2, done.output
    assert done.stderr


def test_a_router_of_another_protocol_is_said() -> None:
    router = FakeRouter()
    router.statuses[0].peer.protocol_major = 9
    with serving(router):
        done = run("status", "--router", router.address)
    assert done.exit_code == 1
    assert "speaks protocol 9." in done.stderr


def test_the_measuring_gets_its_options_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = "def main(limit: int = 1, json: str = ''):\n    print(limit, json)\n    raise SystemExit(limit)\n"
    (tmp_path / "bench_suite.py").write_text(suite)
    monkeypatch.syspath_prepend(str(tmp_path))
    done = run("bench", "--limit", "3", "--json", "out")
    assert (done.stdout, done.exit_code) == ("3 out\n", 3)
    assert "--limit" in run("bench", "--help").output
    del sys.modules["bench_suite"]


def test_the_measuring_is_a_checkouts() -> None:
    done = run("bench", "--help")
    assert done.exit_code == 1
    assert "//:paceline -- bench" in done.stderr


def test_a_shell_completes_drafters_and_checks() -> None:
    router = FakeRouter()
    asked = {"_PACELINE_COMPLETE": "complete_bash", "COMP_WORDS": "paceline generate --drafter s", "COMP_CWORD": "3"}
    with serving(router):
        assert run(env={**asked, "PACELINE_ROUTER": router.address}).stdout.split() == ["suffix"]
    assert run(env={**asked, "PACELINE_ROUTER": router.address}).stdout.split() == []
    checks = {**asked, "COMP_WORDS": "paceline doctor --only ", "COMP_CWORD": "3"}
    assert "clock" in run(env=checks).stdout.split()


def test_refusals_come_with_advice() -> None:
    router = FakeRouter(refusal=PacelineError(Reason.NO_VERIFIER, "no verifier is there"))
    with serving(router):
        done = run("generate", "hello", "--router", router.address)
    assert done.exit_code == 1
    assert "refuses: no verifier is there; start one" in done.stderr
