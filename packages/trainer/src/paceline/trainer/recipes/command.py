"""The commands `bootstrap`, `frame` and `invent`. They import torch only when they run."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paceline.trainer.recipes.settings import BootstrapSettings, FrameSettings, InventSettings
from paceline.trainer.version import VERSION
from paceline.wire import logs
from paceline.wire.errors import PacelineError
from paceline.wire.settings import StartupError

if TYPE_CHECKING:
    from paceline.trainer.recipes.stages import Outcome

# What decides what is made, by flag; where things lie and how fast it goes do not.
_TOLD = (
    *("target", "prompts", "recipe", "parent", "name", "sources", "max_prompts", "max_tokens", "max_prompt_tokens"),
    *("objective", "vocabulary", "width", "layers", "epochs", "pretrain_epochs", "learning_rate", "batch_tokens"),
    *("held_out", "seed", "weights"),
)


def bootstrap(settings: BootstrapSettings) -> int:
    """Makes a drafter and prints what came of it; returns the exit code. Raises StartupError."""
    logs.configure(settings.log_level, False)
    if settings.out.exists():
        raise StartupError(f"--out {settings.out} exists; choose a folder that doesn't")
    try:
        from paceline.trainer.recipes.stages import run
    except ModuleNotFoundError as error:
        raise _missing("bootstrap", error) from error
    try:
        outcome = run(settings, work_folder(settings), command_of(settings))
    except PacelineError as error:
        raise StartupError(error.message) from error
    except OSError as error:
        raise StartupError(
            f"{error.filename or settings.out}: {error.strerror or error}; what is done is kept: put that right and "
            "run the same again"
        ) from error
    print(json.dumps(document(settings, outcome)) if settings.json_output else told(settings, outcome))
    return 0


def invent(settings: InventSettings) -> int:
    """Makes up prompts and prints how many there are; returns the exit code. Raises StartupError."""
    logs.configure(settings.log_level, False)
    try:
        from paceline.trainer.recipes.invention import run
    except ModuleNotFoundError as error:
        raise _missing("invent", error) from error
    try:
        prompts = run(settings)
    except PacelineError as error:
        raise StartupError(error.message) from error
    except OSError as error:
        raise StartupError(f"--out {settings.out}: {error.strerror or error}; run the same again to go on") from error
    made = {"out": str(settings.out), "prompts": prompts}
    print(json.dumps(made) if settings.json_output else f"{settings.out}: {prompts} prompts")
    return 0


def frame(settings: FrameSettings) -> int:
    """Puts prompts together and prints how many there are; returns the exit code. Raises StartupError."""
    try:
        from paceline.trainer.recipes.framing import run
    except ModuleNotFoundError as error:
        raise _missing("frame", error) from error
    try:
        run(settings)
    except PacelineError as error:
        raise StartupError(error.message) from error
    except OSError as error:
        raise StartupError(f"--out {settings.out}: {error.strerror or error}") from error
    made = {"out": str(settings.out), "prompts": settings.count}
    print(json.dumps(made) if settings.json_output else f"{settings.out}: {settings.count} prompts")
    return 0


def _missing(command: str, error: ModuleNotFoundError) -> StartupError:
    """What to do about it; a module of our own that isn't there is a bug, and raised as it is."""
    if (error.name or "").startswith("paceline"):
        raise error
    return StartupError(
        f"{command} needs the Python package {error.name}; install what it needs with "
        "pip install 'paceline-trainer[train]'"
    )


def work_folder(settings: BootstrapSettings) -> Path:
    """Where it is kept what there is to go on from."""
    return settings.work or settings.out.with_name(settings.out.name + ".work")


def command_of(settings: BootstrapSettings) -> str:
    """What to type to make the same again: all that isn't as it would be anyway. No paths but file names."""
    parts = ["paceline-trainer", "bootstrap"]
    for name in _TOLD:
        value, usual = getattr(settings, name), BootstrapSettings.model_fields[name].default
        if value != usual:
            shown = value.name if isinstance(value, Path) else str(value)
            parts += [f"--{name.replace('_', '-')}", shown]
    return f"{shlex.join(parts)} # {VERSION}"


def document(settings: BootstrapSettings, outcome: Outcome) -> dict[str, Any]:
    """What --json prints."""
    return {
        "out": str(settings.out),
        "revision": outcome.revision_id,
        "recipe": settings.recipe,
        "summary": outcome.summary,
        "metrics": outcome.metrics,
        "bytes": outcome.num_bytes,
        "seconds": round(outcome.seconds, 1),
    }


def told(settings: BootstrapSettings, outcome: Outcome) -> str:
    """For people."""
    metrics = "\n".join(f"  {name:24} {value:.4g}" for name, value in sorted(outcome.metrics.items()))
    return (
        f"{settings.out}: {outcome.summary}, {outcome.num_bytes / 2**20:.1f} MiB\n{metrics}\n"
        f"revision {outcome.revision_id}"
    )
