"""What a run has to remember to go on: one folder for each state, written whole or not at all.

    state-00001200/tensors.safetensors    weights, their averages, the optimizer's moments
    state-00001200/progress.json          counters

Nothing in it is code, and nothing of it is trusted to have the right names or shapes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from paceline.wire.revision_folder import new_folder
from paceline.wire.settings import StartupError

TENSORS, PROGRESS = "tensors.safetensors", "progress.json"
KEPT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a run is.

    Attributes:
        step: optimizer steps that were taken.
        task: what is being learnt, as the task names it; a run goes on only with the same.
        mean_loss: running mean, over some tens of steps; 0 before the first.
        rate_scale: by which the learning rate was lowered when the loss diverged.
        rollbacks: how often it did.
    """

    step: int = 0
    task: str = ""
    mean_loss: float = 0.0
    rate_scale: float = 1.0
    rollbacks: int = 0


def save_state(folder: Path, progress: Progress, tensors: Mapping[str, Tensor]) -> None:
    """Adds a state, and removes all but the newest few."""
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with new_folder(folder / f"state-{progress.step:08d}") as state:
        save_file(kept, state / TENSORS)
        (state / PROGRESS).write_text(json.dumps(asdict(progress), indent=2) + "\n")
    for old in _states(folder)[:-KEPT]:
        shutil.rmtree(old)


def clean(folder: Path) -> None:
    """Makes the folder if it isn't there, and removes what a crash left half-written in it."""
    folder.mkdir(parents=True, exist_ok=True)
    for torn in folder.glob(".state-*"):
        shutil.rmtree(torn)


def load_state(folder: Path, task: str, shapes: Mapping[str, torch.Size]) -> tuple[Progress, dict[str, Tensor]] | None:
    """The newest state, or None if there is none.

    Raises StartupError if it is of another task or model, or damaged.
    """
    states = _states(folder)
    if not states:
        return None
    newest = states[-1]
    try:
        document = json.loads((newest / PROGRESS).read_bytes())
        progress = Progress(**{field.name: document[field.name] for field in fields(Progress)})
        tensors = load_file(newest / TENSORS)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise StartupError(
            f"{newest}: can't be read ({type(error).__name__}); remove it to go on from before"
        ) from error
    if progress.task != task:
        raise StartupError(f"{newest}: was learning {progress.task[:80]!r} and not {task!r}; choose another folder")
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if found != dict(shapes):
        strange = sorted(name for name in found.keys() | shapes.keys() if found.get(name) != shapes.get(name))
        raise StartupError(f"{newest}: is of another model (see {strange[0]}); choose another folder for this one")
    return progress, tensors


def _states(folder: Path) -> list[Path]:
    return sorted(folder.glob("state-*"))
