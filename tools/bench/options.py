"""What the command lines of the measuring tools have in common."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer
from rounds import BenchError

INTERRUPTED = 130  # exit code, as shells have it
CHANGED = (
    "With speculation some answers differ: that is a bug in Paceline, unless the verifier's log warned of its "
    "exactness probe; please report it with this output."
)

QuestionsFile = Annotated[
    Path, typer.Option(help="Spec-Bench's question file: JSON lines with question_id, category and turns.")
]
Limit = Annotated[
    int | None, typer.Option(min=1, help="Take this many, spread evenly over the six groups; without it, all.")
]
MaxNewTokens = Annotated[int, typer.Option(min=1, max=4096, help="Most tokens of each answer.")]
Model = Annotated[
    str, typer.Option(help="Hub name, folder, .gguf file, or package:NAME of a Python package with weights.")
]
Dtype = Annotated[str, typer.Option(help="The verifier's --dtype.")]
VerifierArguments = Annotated[str, typer.Option(help="Further flags for the verifier, as one word: '--threads 2'.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")]
PlotFile = Annotated[
    Path | None, typer.Option("--plot", help="Write a picture (PNG); by default beside the file of --json.")
]


def in_users_folder(path: Path) -> Path:
    """`bazel run` changes the folder; a relative path means the one the user is in."""
    return Path(os.environ.get("BUILD_WORKING_DIRECTORY", ".")) / path.expanduser()


def outputs(json_file: Path | None, plot_file: Path | None) -> tuple[Path | None, Path | None]:
    """Where the figures and the picture go. Raises BenchError if they can't: now rather than after an hour."""
    target = in_users_folder(json_file) if json_file else None
    picture = in_users_folder(plot_file) if plot_file else target and target.with_suffix(".png")
    for path in filter(None, (target, picture)):
        if not path.parent.is_dir():
            raise BenchError(f"{path}: there is no folder {path.parent}; make it first")
        if path.is_dir():
            raise BenchError(f"{path} is a folder; name a file in it")
    return target, picture


def one_of(option: str, value: str, choices: tuple[str, ...]) -> str:
    """The value, if it is a choice."""
    if value not in choices:
        raise BenchError(f"{option} is {value!r}; it must be one of {', '.join(choices)}")
    return value


def words(option: str, value: str) -> list[str]:
    """The value's words, as a shell would split them."""
    try:
        return shlex.split(value)
    except ValueError as error:
        raise BenchError(f"{option} {value!r}: {error}") from None
