"""The pages that are made of code are what making them now gives."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from generate import pages
from pages import ROOT
from programs import SERVICES, commands_of
from protocol_reference import protocol_reference
from typer.testing import CliRunner

PROTO = """// What this file is about.
syntax = "proto3";
package paceline.v1;

// Calls of all kinds.
service Echo {
  // Say gives it back.
  rpc Say(stream Words) returns (stream Words);
}

message Words {
  // Kind of word.
  enum Kind {
    // KIND_UNSPECIFIED: nobody | knows.
    KIND_UNSPECIFIED = 0;
  }
  // inner is declared inside.
  message Inner {}
  // text of it.
  string text = 3;
  optional uint32 count = 4;
  repeated Inner inner = 5;
  map<string, Inner> by_name = 6;
  oneof either {
    Kind kind = 1;
    // other thing.
    bytes other = 2;
  }
}
"""


@pytest.mark.parametrize("path", ["docs/protocol.md", "docs/settings.md"])
def test_a_page_is_as_the_code_is(path: str) -> None:
    made = dict(pages(ROOT))
    assert (ROOT / path).read_text() == made[path], "run: ./bazelw run //tools/docs:generate"


def test_a_protocol_is_told_whole(tmp_path: Path) -> None:
    (tmp_path / "paceline" / "v1").mkdir(parents=True)
    (tmp_path / "paceline" / "v1" / "echo.proto").write_text(PROTO)
    page = protocol_reference(tmp_path)
    assert "| Say | stream of [Words](#words) | stream of [Words](#words) | Say gives it back. |" in page
    assert "Calls of all kinds." in page
    assert "## echo.proto\n\nWhat this file is about." in page
    assert "| text | 3 | string | text of it. |" in page
    assert "| count | 4 | optional uint32 |  |" in page
    assert "| inner | 5 | repeated [Words.Inner](#wordsinner) |  |" in page
    assert "| by_name | 6 | map of string to [Words.Inner](#wordsinner) |  |" in page
    assert "| kind | 1 | [Words.Kind](#wordskind) | *(one of `either`)* |" in page
    assert "| other | 2 | bytes | other thing. *(one of `either`)* |" in page
    assert "### Words.Inner\n\ninner is declared inside.\n\nNo fields." in page
    assert "| KIND_UNSPECIFIED | 0 | KIND_UNSPECIFIED: nobody \\| knows. |" in page
    assert "ByNameEntry" not in page


def test_every_field_of_the_protocol_is_on_the_page() -> None:
    page = (ROOT / "docs" / "protocol.md").read_text()
    for path in (ROOT / "protos" / "paceline" / "v1").glob("*.proto"):
        for name, number in re.findall(r"^\s+[\w.<>, ]+ (\w+) = (\d+);", path.read_text(), re.MULTILINE):
            assert f"| {name} | {number} |" in page, f"{path.name}: {name}"


@pytest.mark.parametrize("service", SERVICES)
def test_every_setting_of_every_command_is_on_the_page(service: str) -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    shared = page[: page.index("## `paceline-")]
    for name, command in commands_of(f"paceline-{service}").items():
        section = page.split(f"## `paceline-{service} {name}`\n")[1].split("\n## ")[0]
        own = command.flags - {"-h", "--help", "--config"}
        for flag in (flag for flag in own if not flag.startswith("--no-")):
            assert f"`{flag}`" in section + shared, f"{service} {name} {flag}"


def test_writing_the_pages_again_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import generate
    import typer

    (tmp_path / "docs").mkdir()
    (tmp_path / "protos").symlink_to(ROOT / "protos")
    monkeypatch.setenv("BUILD_WORKSPACE_DIRECTORY", str(tmp_path))
    app = typer.Typer()
    app.command()(generate.main)
    runner = CliRunner()
    assert runner.invoke(app, ["--check"]).exit_code == 1
    assert list((tmp_path / "docs").iterdir()) == []
    assert "docs/settings.md: written" in runner.invoke(app, []).output
    assert runner.invoke(app, ["--check"]).output == "nothing changed\n"
