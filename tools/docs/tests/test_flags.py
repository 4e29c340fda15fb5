"""Every flag and every variable that documentation names exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import pytest
import typer
from fences import outside_blocks
from pages import ROOT, present_pages, read
from programs import PROGRAMS, commands_of, flags_by_field, of_typer, variable_of
from shell_lines import BAZEL_FLAGS, OTHERS, commands_in, problems_of

from paceline.wire.settings import ServiceSettings

# Variables that are no settings, and where they are read.
VARIABLES = {
    "PACELINE_CONFIG": "protos/python/paceline/wire/settings.py",
    "PACELINE_SECRETS_DIR": "protos/python/paceline/wire/settings.py",
    "PACELINE_URL": "tools/bench/schemathesis_hooks.py",
    "PACELINE_VENV": "tools/build_defs/pip.bzl",
}
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9_-]*")
VARIABLE = re.compile(r"\bPACELINE_[A-Z][A-Z0-9_]*")
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
PLACEHOLDERS = {"PACELINE_NAME"}

PAGES = present_pages()
FLAGS = frozenset(flag for program in PROGRAMS for command in commands_of(program).values() for flag in command.flags)
OF_OTHERS = frozenset(flag for flags in OTHERS.values() for flag in flags or ()) | BAZEL_FLAGS


def test_flags_are_those_that_the_programs_have() -> None:
    serve = commands_of("paceline-drafter")["serve"]
    assert {"--strategies", "--strategy", "--ahead", "--no-ahead", "--token", "--config", "--help"} <= serve.flags
    assert "--max-sessions" not in serve.flags
    assert {"PACELINE_MAX_NODES", "PACELINE_TOKEN"} <= serve.variables
    assert "--json" in commands_of("paceline-router")["status"].flags
    assert commands_of("//tools/bench:routing")[""].flags >= {"--cross-check", "--no-cross-check", "--json"}
    assert flags_by_field(ServiceSettings)["log_json"] == ["--log-json", "--no-log-json"]
    token = commands_of("paceline-router")["token"].settings
    assert token is not None
    assert flags_by_field(token)["tenant"] == []
    assert variable_of(token, "roles") == "PACELINE_TOKEN_ROLES"
    assert variable_of(token, "as_json") == ""


def test_a_program_of_several_commands_is_asked_for_each() -> None:
    app = typer.Typer()

    @app.command()
    def ask(prompt: str, dry: Annotated[bool, typer.Option("--dry/--wet", "-d")] = False, limit: int = 3) -> None: ...
    @app.command(context_settings={"ignore_unknown_options": True})
    def hand(rest: list[str]) -> None: ...

    commands = of_typer(app)
    assert commands["ask"].flags == {"--dry", "--wet", "-d", "--limit", "--help", "-h"}
    assert [commands[name].passes_on for name in ("ask", "hand")] == [False, True]


def test_commands_of_a_block_are_found_however_they_are_written() -> None:
    block = 'A=1 B="2 3" one --x 4 & two \\\n  --y  # not this --z\nthree > file; four | five --q="a b" [--r HERE]\n'
    assert list(commands_in(block)) == [
        ["one", "--x", "4"],
        ["two", "--y"],
        ["three"],
        ["four"],
        ["five", "--q=a b", "--r", "HERE"],
    ]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("paceline-router serve --listen 127.0.0.1:7700 --http=127.0.0.1:8000", ""),
        ("paceline-router serve --https 127.0.0.1:8000", "there is no flag --https"),
        ("paceline-router start", "paceline-router has no command 'start'"),
        ("paceline-router", "paceline-router has no command ''"),
        ("paceline-router --help", ""),
        ("python -m paceline.router serve --verifiers x", "there is no flag --verifiers"),
        ("python tools/docs/generate.py", ""),
        ("python tools/docs/no_such_file.py", "there is no file"),
        ("torchrun --nproc-per-node 2 -m paceline.verifier serve --model X", ""),
        ("torchrun --nproc 2 -m paceline.verifier serve", "there is no flag --nproc"),
        ("torchrun --nproc-per-node 2 -m paceline.verifier serve --nodes 3", "there is no flag --nodes"),
        ("PACELINE_TOKEN=x paceline-verifier serve --max-sessions 4 &", ""),
        ("./bazelw run //:up -- --port 0", ""),
        ("./bazelw run //:up -- --ports 0", "there is no flag --ports"),
        ("./bazelw run //:down", "nobody knows the flags of //:down"),
        ("./bazelw test //packages/router:tests --test_filter=X", ""),
        ("./bazelw test //packages/roter:tests", "there is no target"),
        ("./bazelw build //packages/NAME:wheel", ""),
        ("frobnicate --hard", "nobody knows the program 'frobnicate'"),
    ],
)
def test_what_cannot_be_right_is_found(line: str, why: str) -> None:
    problems = [problem.why for problem in problems_of(line, ROOT)]
    assert [problem[: len(why)] for problem in problems] == ([why] if why else [])


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_flag_in_the_text_exists(page: Path) -> None:
    text = outside_blocks(read(page))
    unknown = {flag for flag in FLAG.findall(_without_other_programs(text)) if flag not in FLAGS | OF_OTHERS}
    assert not unknown, f"{page}: {unknown}; if they are another program's, name them in tools/docs/shell_lines.py"
    problems = [str(problem) for code in CODE.findall(text) if _is_ours(code) for problem in problems_of(code, ROOT)]
    assert not problems, f"{page}: {problems}"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_variable_exists(page: Path) -> None:
    settings = {name for program in PROGRAMS for one in commands_of(program).values() for name in one.variables}
    unknown = set(VARIABLE.findall(read(page))) - settings - set(VARIABLES) - PLACEHOLDERS
    assert not unknown, f"{page}: {unknown}"


def test_other_variables_are_read_where_it_is_said() -> None:
    for name, path in VARIABLES.items():
        assert name in (ROOT / path).read_text()


def test_the_paceline_command_has_its_commands_and_hands_bench_on() -> None:
    commands = commands_of("paceline")
    assert {"up", "chat", "generate", "status", "top", "doctor"} <= set(commands)
    assert "--questions" in commands["bench"].flags


def _is_ours(code: str) -> bool:
    """Whether code in a line is a whole command of ours, and not only its name."""
    words = code.split()
    if words[:2] == ["./bazelw", "run"]:
        return True
    return len(words) > 1 and words[0] in PROGRAMS and words[1][0].isalpha() and words[1].islower()


def _without_other_programs(text: str) -> str:
    """Without code that is another program's command line."""
    return CODE.sub(lambda found: "" if _is_other(found[1]) else found[0], text)


def _is_other(code: str) -> bool:
    first = code.split()[0] if code.split() else ""
    return first in OTHERS and OTHERS[first] is None
