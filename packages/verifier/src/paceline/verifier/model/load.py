"""Loading the target with transformers: a hub name, a folder, a GGUF file, or a Python package that carries one.

Importing this imports all that transformers needs to compute: some 100 MB that the native engine has no use for, which
therefore does it in a process of its own (`apart`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from paceline.verifier.model.fingerprint import fingerprint
from paceline.verifier.model.sharding import sharding
from paceline.verifier.model.target import Target, Wanted, locate, resolve_device, resolve_dtype
from paceline.verifier.model.tokenizer import TargetTokenizer
from paceline.wire.settings import StartupError

LAYER_TYPES = {"full_attention", "sliding_attention"}


@dataclass(frozen=True, slots=True)
class Found:
    """A model that is there, and whose weights have not been read yet.

    Attributes:
        where, extra: what `from_pretrained` is called with.
        config: as transformers reads it.
        context_length: most tokens of prompt and answer.
    """

    where: str
    extra: dict[str, Any]
    config: PreTrainedConfig
    context_length: int


def find_target(wanted: Wanted) -> Found:
    """Looks at the model's settings. Raises StartupError: says in one line why not, and what to do."""
    name, asked = wanted.name, wanted.context_length
    where, extra = locate(name)
    try:
        config = AutoConfig.from_pretrained(where, trust_remote_code=False, **extra)
    except Exception as error:  # transformers raises many types for what is one thing here
        raise StartupError(_why(name, error)) from error
    strange = set(getattr(config.get_text_config(), "layer_types", None) or ()) - LAYER_TYPES
    if strange:
        raise StartupError(
            f"--model {name}: it has layers of type {', '.join(sorted(strange))}, over which trees can't be verified; "
            f"choose a model with only {' and '.join(sorted(LAYER_TYPES))}"
        )
    own_context = int(getattr(config.get_text_config(), "max_position_embeddings", 0) or 0)
    if asked and own_context and asked > own_context:
        raise StartupError(f"--context-length is {asked}; {name} was made for at most {own_context} tokens")
    return Found(where, extra, config, asked or own_context or 2048)


def load_target(wanted: Wanted, found: Found) -> tuple[Target, PreTrainedModel]:
    """Loads tokenizer and model for inference; the model is for an engine to take over.

    Raises:
        StartupError: says in one line why not, and what to do.
    """
    name, place = wanted.name, wanted.place
    device = resolve_device(wanted.device, place)
    source = {"trust_remote_code": False, **found.extra}
    if place.size > 1:
        source["distributed_config"] = sharding(name, found.config, place.size)
    try:
        tokenizer = AutoTokenizer.from_pretrained(found.where, trust_remote_code=False, **found.extra)
        model = AutoModelForCausalLM.from_pretrained(
            found.where, config=found.config, dtype=resolve_dtype(wanted.dtype), **source
        )
    except Exception as error:  # as above
        raise StartupError(_why(name, error)) from error
    if not model._supports_attention_backend:
        raise StartupError(
            f"--model {name}: {type(model).__name__} has no exchangeable attention, which verifying trees needs; "
            "choose a decoder whose transformers implementation supports attention backends"
        )
    num_parameters = model.num_parameters()
    try:
        model = model.eval().requires_grad_(False).to(device)
    except RuntimeError as error:  # also torch.OutOfMemoryError
        raise StartupError(_why(name, error)) from error
    target = Target(
        name=name,
        tokenizer=TargetTokenizer(tokenizer),
        context_length=found.context_length,
        eos_token_ids=_eos_token_ids(model, tokenizer),
        num_parameters=num_parameters,
        architecture=type(model).__name__,
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
        weights_hash=fingerprint(model),
    )
    return target, model


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
