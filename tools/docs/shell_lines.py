"""Command lines as documentation shows them: which program each starts, and whether its flags exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from programs import ALONE, PROGRAMS, SERVICES, commands_of

# Programs that aren't ours: the flags that documentation uses of each, None for any.
OTHERS: Mapping[str, frozenset[str] | None] = {
    **dict.fromkeys(
        ("apt-get", "docker", "git", "grpcurl", "helm", "install", "journalctl", "kubectl", "openssl"), None
    ),
    **dict.fromkeys(("check-jsonschema", "kubernetes-validate", "systemd-analyze"), None),
    **dict.fromkeys(("pytest", "redis-server", "schemathesis", "sqlite3", "sudo", "systemctl", "useradd"), None),
    **dict.fromkeys(("bash", "cat", "cd", "chmod", "cp", "echo", "export", "kill", "mkdir"), frozenset()),
    "curl": frozenset({"--cacert"}),
    "docker build": frozenset({"--build-arg"}),
    "pip": frozenset({"--no-deps"}),
    "ruff": frozenset({"--fix"}),
    "torchrun": frozenset({"--nproc-per-node", "--max-restarts"}),
}
BAZEL_FLAGS = frozenset({"--test_filter", "--nocache_test_results"})
BAZEL = ("./bazelw", "bazelw")
PYTHON = ("python", "python3")

_OPERATORS = re.compile(r"^[&|;()<>]+$")
_ASSIGNMENT = re.compile(r"^[A-Z_][A-Z0-9_]*=")
_PLACEHOLDER = re.compile(r"[A-Z]{2,}")
_REDIRECTIONS = (">", ">>", "<")


@dataclass(frozen=True)
class Problem:
    """Why a command line can't be right."""

    line: str
    why: str

    def __str__(self) -> str:
        return f"{self.why}: {self.line}"


def commands_in(text: str) -> Iterator[list[str]]:
    """The simple commands of a shell block, as words, without assignments before them and without redirections."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        skip = False
        for word in [*lexer, ";"]:
            if word in _REDIRECTIONS:
                skip = True
            elif skip:
                skip = False
            elif not _OPERATORS.match(word):
                words.append(word.strip("[]"))
            elif command := _without_assignments(words):
                yield command
                words = []


def problems_of(text: str, root: Path) -> Iterator[Problem]:
    """What is wrong with the commands of a shell block. Lines with programs that aren't installed here are passed over.

    Args:
        root: of the repository, for paths that commands name.
    """
    for words in commands_in(text):
        for why in _problems(words, root):
            yield Problem(shlex.join(words), why)


def _without_assignments(words: list[str]) -> list[str]:
    while words and _ASSIGNMENT.match(words[0]):
        words = words[1:]
    return words


def _problems(words: list[str], root: Path) -> Iterator[str]:
    name = words[0]
    program, arguments = _own(words)
    if name in BAZEL:
        yield from _bazel_problems(words[1:], root)
    elif name in PYTHON:
        yield from _python_problems(words[1:], program, root)
    elif name == "torchrun":
        yield from _unknown(words[1 : len(words) - len(arguments)], OTHERS[name])
    elif name in OTHERS:
        yield from _unknown(words[1:], OTHERS[name])
    elif not program:
        yield f"nobody knows the program {name!r}; name it in tools/docs (programs.py, or OTHERS in shell_lines.py)"
    if program:
        yield from _own_problems(program, arguments)


def _own(words: list[str]) -> tuple[str, list[str]]:
    """The program of ours that a command starts, and its arguments."""
    if words[0] in PROGRAMS:
        return words[0], words[1:]
    if words[0] in BAZEL and words[1:2] == ["run"]:
        target, rest = words[2], words[3:]
        return (target, rest[1:] if rest[:1] == ["--"] else rest) if target in PROGRAMS else ("", [])
    if "-m" in words[:-1]:
        at = words.index("-m") + 1
        package, _, service = words[at].rpartition(".")
        if package == "paceline" and service in SERVICES:
            return f"paceline-{service}", words[at + 1 :]
    return "", []


def _own_problems(program: str, arguments: list[str]) -> Iterator[str]:
    commands = commands_of(program)
    if ALONE in commands:
        command, rest = ALONE, arguments
    else:
        command, rest = (arguments or [""])[0], arguments[1:]
    if command.startswith("-") and command in ("--help", "--version"):
        return
    if command not in commands:
        yield f"{program} has no command {command!r}; it has {', '.join(commands)}"
        return
    if not commands[command].passes_on:
        yield from _unknown(rest, commands[command].flags)


def _bazel_problems(words: list[str], root: Path) -> Iterator[str]:
    if not words or words[0] not in ("run", "test", "build"):
        yield "documentation uses bazelw run, test and build"
        return
    ours = words[1 : words.index("--") if "--" in words else len(words)]
    yield from _unknown(ours, BAZEL_FLAGS)
    for target in (word for word in ours if not word.startswith("-")):
        folder = target.removeprefix("//").partition(":")[0].removesuffix("...").rstrip("/")
        if not target.startswith("//") or not (_PLACEHOLDER.search(folder) or _has_build_file(root / folder)):
            yield f"there is no target {target}"
        elif words[0] == "run" and target not in PROGRAMS:
            yield f"nobody knows the flags of {target}; name it in PROGRAMS (tools/docs/programs.py)"


def _has_build_file(folder: Path) -> bool:
    return (folder / "BUILD.bazel").is_file() or folder.name in ("packages", "tools")


def _python_problems(words: list[str], program: str, root: Path) -> Iterator[str]:
    if not program and words and not words[0].startswith("-") and not (root / words[0]).is_file():
        yield f"there is no file {words[0]}"


def _unknown(words: list[str], known: frozenset[str] | None) -> Iterator[str]:
    for word in words:
        flag = word.partition("=")[0]
        if known is not None and flag.startswith("--") and len(flag) > 2 and " " not in word and flag not in known:
            yield f"there is no flag {flag}"
