"""Strategies that draft with a language model, by name. To add one: a function that loads it, and a line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from paceline.drafter.models.base import LoadedModel
from paceline.wire.model_card import LanguageModelCard
from paceline.wire.settings import StartupError


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """Where models are and how they run; see `DrafterSettings`."""

    model: str = ""
    revision: str = ""
    device: str = "auto"
    dtype: str = "auto"
    threads: int = 0


@dataclass(frozen=True, slots=True)
class ModelStrategy:
    """A way to draft with a model. `takes`: the kind of revision's card that it can go on with, "" if it takes none
    (`paceline.wire.model_card`). `guesses`: a suffix automaton proposes, and the model checks that in one pass
    instead of thinking of its own token by token (cascade speculative drafting, Chen et al. 2023)."""

    load: Callable[[ModelOptions], LoadedModel]
    takes: str = ""
    guesses: bool = False


def load_causal_lm(options: ModelOptions) -> LoadedModel:
    """With torch, by `--model`."""
    if not options.model:
        raise StartupError(
            "strategy causal_lm needs a model: give --model with a Hugging Face name, a folder or a GGUF"
        )
    try:
        from paceline.drafter.models.torch_lm import load_torch
    except ModuleNotFoundError as error:
        raise StartupError(f"strategy causal_lm needs {error.name}: pip install 'paceline-drafter[torch]'") from error
    return load_torch(options.model, device=options.device, dtype=options.dtype, threads=options.threads)


def load_onnx_lm(options: ModelOptions) -> LoadedModel:
    """With ONNX Runtime, by `--revision`."""
    if not options.revision:
        raise StartupError("strategy onnx_lm needs a revision: give --revision with a folder made by `export`")
    try:
        from paceline.drafter.models.onnx_lm import load_onnx
    except ModuleNotFoundError as error:
        raise StartupError(
            f"strategy onnx_lm needs {error.name}: pip install 'paceline-drafter[edge]' (or [gpu] for CUDA)"
        ) from error
    return load_onnx(Path(options.revision), provider=options.device.partition(":")[0], threads=options.threads)


def load_either(options: ModelOptions) -> LoadedModel:
    """The revision if there is one, else the model."""
    return load_onnx_lm(options) if options.revision else load_causal_lm(options)


MODEL_STRATEGIES: dict[str, ModelStrategy] = {
    "causal_lm": ModelStrategy(load_causal_lm),
    "onnx_lm": ModelStrategy(load_onnx_lm, takes=LanguageModelCard.KIND),
    "cascade": ModelStrategy(load_either, takes=LanguageModelCard.KIND, guesses=True),
}
