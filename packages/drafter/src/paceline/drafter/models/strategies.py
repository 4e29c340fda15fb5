"""Strategies that draft with a language model, by name. To add one: a function that loads it, and a line here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from paceline.drafter.models.base import LoadedModel
from paceline.drafter.trees.base import Shape
from paceline.wire.model_card import FeatureHeadCard, LanguageModelCard
from paceline.wire.revision_folder import open_revision
from paceline.wire.settings import StartupError


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """Where models are and how they run; see `DrafterSettings`."""

    model: str = ""
    revisions: tuple[str, ...] = ()
    device: str = "auto"
    dtype: str = "auto"
    threads: int = 0
    head_engine: str = "auto"

    @property
    def provider(self) -> str:
        """Of ONNX Runtime."""
        return self.device.partition(":")[0]


USUAL_SHAPE = Shape(width=4, depth=8)
# A head sees a little way ahead only, and a pass costs it nearly as much for one row as for four.
HEAD_SHAPE = Shape(width=4, depth=4)


@dataclass(frozen=True, slots=True)
class ModelStrategy:
    """A way to draft with a model.

    Attributes:
        takes: the kind of revision's card that it can go on with, "" if it takes none (`paceline.wire.model_card`).
        guesses: a suffix automaton proposes, and the model checks that in one pass instead of thinking of its own token
            by token (cascade speculative drafting, Chen et al. 2023).
        shape: of its trees, unless settings say otherwise.
    """

    load: Callable[[ModelOptions], LoadedModel]
    takes: str = ""
    guesses: bool = False
    shape: Shape = USUAL_SHAPE


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
    folder = revision_of(LanguageModelCard.KIND, options)
    with _needing("onnx_lm"):
        from paceline.drafter.models.onnx_lm import load_onnx
    return load_onnx(folder, provider=options.provider, threads=options.threads)


def load_head(options: ModelOptions) -> LoadedModel:
    """By `--revision`."""
    folder = revision_of(FeatureHeadCard.KIND, options)
    with _needing("feature_head"):
        from paceline.drafter.models import head_engines
    return head_engines.load_head(
        folder, provider=options.provider, threads=options.threads, engine=options.head_engine
    )


def load_either(options: ModelOptions) -> LoadedModel:
    """The revision if there is one, else the model."""
    return load_onnx_lm(options) if revisions_of(LanguageModelCard.KIND, options) else load_causal_lm(options)


def revisions_of(kind: str, options: ModelOptions) -> list[Path]:
    """The folders with models of that kind. Raises PacelineError for a folder that is damaged."""
    return [Path(name) for name in options.revisions if kind == open_revision(Path(name)).card.KIND]


def revision_of(kind: str, options: ModelOptions) -> Path:
    """The one folder with a model of that kind. Raises StartupError if there isn't one, or PacelineError for a folder
    that is damaged."""
    found = revisions_of(kind, options)
    if len(found) != 1:
        raise StartupError(
            f"a strategy that drafts with a {kind} needs a revision: give --revision with a folder made by `export` or "
            f"a trainer; of the {len(options.revisions)} given {len(found)} are a {kind}, and it must be one"
        )
    return found[0]


@contextmanager
def _needing(strategy: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise StartupError(
            f"strategy {strategy} needs {error.name}: pip install 'paceline-drafter[edge]' (or [gpu] for CUDA)"
        ) from error


MODEL_STRATEGIES: dict[str, ModelStrategy] = {
    "causal_lm": ModelStrategy(load_causal_lm),
    "onnx_lm": ModelStrategy(load_onnx_lm, takes=LanguageModelCard.KIND),
    "feature_head": ModelStrategy(load_head, takes=FeatureHeadCard.KIND, shape=HEAD_SHAPE),
    "cascade": ModelStrategy(load_either, takes=LanguageModelCard.KIND, guesses=True),
}
