"""What can run a model, and which of them is taken: the native decoder where it can be, transformers for the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
import torch

from paceline.verifier.model.apart import load_apart
from paceline.verifier.model.native_runner import NativeRunner
from paceline.verifier.model.runner import Runner
from paceline.verifier.model.target import Target, Unsuited, Wanted, locate, resolve_device, resolve_dtype
from paceline.verifier.native.build import NoNativeCode, load_library
from paceline.wire.settings import StartupError

log = structlog.get_logger()

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Opened:
    """A model that is ready to run.

    Attributes:
        target: what is to know of it.
        runner: its cache is not allocated yet.
        reference: what transformers' own code computes, see `exactness.reference_logits`.
    """

    target: Target
    runner: Runner
    reference: torch.Tensor


async def open_target(wanted: Wanted, engine: str) -> Opened:
    """Loads a model into an engine.

    Args:
        wanted: the model.
        engine: one of ENGINES, or "auto": the first that suits.

    Raises:
        StartupError: the model can't be loaded, or the engine that was asked for doesn't suit.
    """
    locate(wanted.name)  # the commonest mistakes are said at once, before anything large is imported
    if engine != AUTO:
        try:
            return await ENGINES[engine](wanted)
        except Unsuited as error:
            raise StartupError(f"--engine {engine}: {error}") from error
    for name, open_with in ENGINES.items():
        try:
            opened = await open_with(wanted)
        except Unsuited as error:
            log.warning("an engine doesn't suit; taking a slower one", engine=name, why=str(error))
        else:
            log.info("engine", engine=name)
            return opened
    raise StartupError("no engine can run this model")


async def _native(wanted: Wanted) -> Opened:
    place, kind = resolve_device(wanted.device), resolve_dtype(wanted.dtype)
    if place.type != "cpu":
        raise Unsuited(f"it computes on the CPU, the model is for {place}")
    if kind not in (torch.float32, torch.bfloat16):
        raise Unsuited(f"it computes with float32 and bfloat16 weights, these are {kind}")
    num_threads = torch.get_num_threads()
    try:
        library = await asyncio.to_thread(load_library)
    except NoNativeCode as error:
        raise Unsuited(str(error)) from error
    handed = await load_apart(wanted, num_threads)
    runner = await asyncio.to_thread(NativeRunner, library, handed.weights, num_threads)
    return Opened(handed.target, runner, handed.reference)


async def _transformers(wanted: Wanted) -> Opened:
    return await asyncio.to_thread(_load_here, wanted)


def _load_here(wanted: Wanted) -> Opened:
    # Only who runs the model with transformers shall pay for importing its models.
    from paceline.verifier.model.exactness import reference_logits
    from paceline.verifier.model.linear import pack_linears
    from paceline.verifier.model.load import find_target, load_target
    from paceline.verifier.model.transformers_runner import TransformersRunner

    target, model = load_target(wanted, find_target(wanted))
    reference = reference_logits(model)
    if model.device.type == "cpu":
        log.info("packed linear layers", layers=pack_linears(model))
    return Opened(target, TransformersRunner(model), reference)


ENGINES: dict[str, Callable[[Wanted], Awaitable[Opened]]] = {
    "native": _native,
    "transformers": _transformers,
}
