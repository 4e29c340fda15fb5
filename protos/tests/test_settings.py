from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field

from paceline.wire.settings import Command, ServiceSettings, StartupError, load_settings, run_commands


class Example(ServiceSettings):
    """An example."""

    max_things: int = Field(default=4, ge=1, le=64)
    """Things at once."""


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "settings.yaml"
    path.write_text("max_things: 7\nlisten: 127.0.0.1:1\n")
    return str(path)


def test_flags_win_over_environment_over_file(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings(Example, [], "x").max_things == 4
    assert load_settings(Example, ["--config", config], "x").max_things == 7
    monkeypatch.setenv("PACELINE_MAX_THINGS", "8")
    assert load_settings(Example, ["--config", config], "x").max_things == 8
    assert load_settings(Example, ["--config", config, "--max-things", "9"], "x").max_things == 9
    assert load_settings(Example, [f"--config={config}"], "x").listen == "127.0.0.1:1"


def test_flags_with_a_name_of_their_own_are_no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    class Shown(Example):
        as_json: bool = Field(default=False, validation_alias="json")

    monkeypatch.setenv("JSON", "true")
    monkeypatch.setenv("PACELINE_TOKEN", "from the environment")
    assert not load_settings(Shown, [], "prog").as_json
    assert load_settings(Shown, ["--json"], "prog").as_json
    assert load_settings(Shown, [], "prog").token == "from the environment"


@pytest.mark.parametrize("arguments", [["--max-things", "65"], ["--max-things", "x"], ["--unknown", "1"]])
def test_bad_flags_exit_with_2_and_say_which(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        load_settings(Example, arguments, "prog serve")
    assert exit_.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_a_misspelt_key_in_the_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("max_thing: 7\n")
    with pytest.raises(SystemExit):
        load_settings(Example, ["--config", str(path)], "x")
    assert "max-thing" in capsys.readouterr().err


def test_a_missing_file_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load_settings(Example, ["--config", "/nowhere.yaml"], "x")
    assert "/nowhere.yaml" in capsys.readouterr().err


def test_the_token_is_not_printed() -> None:
    assert "secret" not in repr(load_settings(Example, ["--token", "secret"], "x"))


@pytest.mark.parametrize("arguments", [["--tokne", "secret"], ["--tokne=secret"], ["--listen", "a:1", "secret"]])
def test_a_flag_that_is_not_known_is_named_without_its_value(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        load_settings(Example, arguments, "prog serve")
    assert exit_.value.code == 2
    said = capsys.readouterr()
    assert "unrecognized arguments: " + ("a value" if "--listen" in arguments else "--tokne") in said.err
    assert "secret" not in said.err + said.out


def test_commands_map_startup_errors_to_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_settings: Example) -> int:
        raise StartupError("the port is in use")

    commands = {"serve": Command("serve it", Example, fail)}
    assert run_commands("prog", "1.2.3", commands, ["serve"]) == 1
    assert capsys.readouterr().err == "prog: the port is in use\n"
    assert run_commands("prog", "1.2.3", commands, ["--version"]) == 0
    assert capsys.readouterr().out == "prog 1.2.3\n"
    assert run_commands("prog", "1.2.3", commands, ["--help"]) == 0
    assert "serve it" in capsys.readouterr().out
    assert run_commands("prog", "1.2.3", commands, ["dance"]) == 2


def test_secrets_are_files_between_environment_and_configuration(
    tmp_path: Path, config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "paceline_token").write_text("from a file\n")
    (tmp_path / "paceline_max_things").write_text("5")
    (tmp_path / "another_services").write_text("nothing of ours")
    monkeypatch.setenv("PACELINE_SECRETS_DIR", str(tmp_path))
    assert load_settings(Example, [], "x").token == "from a file"
    assert load_settings(Example, ["--config", config], "x").max_things == 5
    monkeypatch.setenv("PACELINE_TOKEN", "from the environment")
    assert load_settings(Example, [], "x").token == "from the environment"
    assert load_settings(Example, ["--token", "a flag"], "x").token == "a flag"


def test_systemds_credentials_are_secrets_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "paceline_token").write_text("from systemd")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert load_settings(Example, [], "x").token == "from systemd"
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "gone"))
    assert load_settings(Example, [], "x").token == ""


def test_a_secret_out_of_bounds_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "paceline_max_things").write_text("65")
    monkeypatch.setenv("PACELINE_SECRETS_DIR", str(tmp_path))
    with pytest.raises(SystemExit):
        load_settings(Example, [], "x")
    assert "--max-things" in capsys.readouterr().err


def test_a_missing_folder_of_secrets_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PACELINE_SECRETS_DIR", "/nowhere")
    with pytest.raises(SystemExit):
        load_settings(Example, [], "x")
    assert "PACELINE_SECRETS_DIR: no folder /nowhere" in capsys.readouterr().err
