"""What can run a model, and which of them is taken: the native decoder where it can be, transformers for the rest."""

from __future__ import annotations

from collections.abc import Callable

import structlog
import torch
from transformers import PreTrainedModel

from paceline.verifier.model.decoder import NotLlamaLike, extract, release
from paceline.verifier.model.linear import pack_linears
from paceline.verifier.model.native_runner import NativeRunner
from paceline.verifier.model.runner import Runner
from paceline.verifier.model.transformers_runner import TransformersRunner
from paceline.verifier.native.build import NoNativeCode, load_library
from paceline.wire.settings import StartupError

log = structlog.get_logger()

AUTO = "auto"


class Unsuited(Exception):
    """This engine can't run this model here; the message says why."""


def open_runner(model: PreTrainedModel, engine: str) -> Runner:
    """A runner that has taken the model over. Its cache is not allocated yet.

    Args:
        model: as `load_target` returns it.
        engine: one of ENGINES, or "auto": the first that suits.

    Raises:
        StartupError: the engine that was asked for doesn't suit.
    """
    if engine != AUTO:
        try:
            return ENGINES[engine](model)
        except Unsuited as error:
            raise StartupError(f"--engine {engine}: {error}") from error
    for name, make in ENGINES.items():
        try:
            runner = make(model)
        except Unsuited as error:
            log.warning("an engine doesn't suit; taking a slower one", engine=name, why=str(error))
        else:
            log.info("engine", engine=name)
            return runner
    raise StartupError("no engine can run this model")


def _native(model: PreTrainedModel) -> Runner:
    if model.tp_size is not None:
        raise Unsuited(f"it runs in one process, the model is shared out among {model.tp_size}")
    if model.device.type != "cpu":
        raise Unsuited(f"it computes on the CPU, the model is on {model.device}")
    if model.dtype not in (torch.float32, torch.bfloat16):
        raise Unsuited(f"it computes with float32 and bfloat16 weights, these are {model.dtype}")
    try:
        library = load_library()
        weights = extract(model)
    except (NotLlamaLike, NoNativeCode) as error:
        raise Unsuited(str(error)) from error
    runner = NativeRunner(library, weights, torch.get_num_threads())
    release(model)
    return runner


def _transformers(model: PreTrainedModel) -> Runner:
    if model.device.type == "cpu":
        log.info("packed linear layers", layers=pack_linears(model))
    return TransformersRunner(model)


ENGINES: dict[str, Callable[[PreTrainedModel], Runner]] = {
    "native": _native,
    "transformers": _transformers,
}
