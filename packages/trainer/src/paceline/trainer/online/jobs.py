"""A refit that survives being killed: what it learns from lies on disk before its first step, and its state beside it.

job.json              what it is a refit of, and how far it has to go
samples.safetensors   the samples, held-out ones included
state/                of `training.loop`
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from paceline.trainer.durable import make_private_folder, replace_synced, sync_folder
from paceline.trainer.online.samples import Sample

JOB, SAMPLES, STATE = "job.json", "samples.safetensors", "state"


@dataclass(frozen=True, slots=True)
class Job:
    """One refit.

    Attributes:
        number: of it, from 1.
        parent: revision that it begins with.
        num_learned: samples that are learned from; those behind them are held out.
        num_steps: to take.
        seed: of the order of samples.
        learned_tokens: of lessons, for what a token of lessons brings.
    """

    number: int
    parent: str
    num_learned: int
    num_steps: int
    seed: int
    learned_tokens: int


class JobFolder:
    """At most one job lies here at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_private_folder(folder)

    @property
    def state(self) -> Path:
        """For the loop."""
        return self.folder / STATE

    def begin(self, job: Job, samples: Sequence[Sample]) -> None:
        """A new job in place of the one before; on disk when this returns. Raises OSError."""
        self.clear()
        path = self.folder / SAMPLES
        save_file(_packed(samples), path)
        path.chmod(0o600)
        sync_folder(self.folder)
        replace_synced(self.folder / JOB, json.dumps(asdict(job)).encode())

    def unfinished(self) -> tuple[Job, list[Sample]] | None:
        """The job that was being done when the process ended; None if there was none, or it can't be read."""
        try:
            job = Job(**json.loads((self.folder / JOB).read_bytes()))
            return job, _unpacked(load_file(self.folder / SAMPLES))
        except (OSError, ValueError, TypeError, KeyError, SafetensorError):
            return None

    def clear(self) -> None:
        """The job is done, or given up. What describes it goes first, so that what is left is never taken for a job."""
        (self.folder / JOB).unlink(missing_ok=True)
        (self.folder / SAMPLES).unlink(missing_ok=True)
        shutil.rmtree(self.state, ignore_errors=True)
        sync_folder(self.folder)


_PER_ROW = ("top_ids", "top_log_probs", "begins", "spells", "accepted")


def _packed(samples: Sequence[Sample]) -> dict[str, npt.NDArray[np.generic]]:
    """All samples' arrays one behind the other, each sample's lengths beside them. At least one sample."""
    packed = {name: np.concatenate([getattr(sample, name) for sample in samples]) for name in ("ids", *_PER_ROW)}
    packed["num_ids"] = np.array([len(sample.ids) for sample in samples])
    packed["num_rows"] = np.array([len(sample) for sample in samples])
    return packed


def _unpacked(packed: dict[str, npt.NDArray[np.generic]]) -> list[Sample]:
    ids = np.split(packed["ids"], np.cumsum(packed["num_ids"])[:-1])
    rows = [np.split(packed[name], np.cumsum(packed["num_rows"])[:-1]) for name in _PER_ROW]
    return [Sample(*parts) for parts in zip(ids, *rows, strict=True)]  # type: ignore[arg-type]
