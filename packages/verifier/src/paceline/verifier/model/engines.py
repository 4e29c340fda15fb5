"""What can run a model, and which of them is taken: our own decoders where they can be, transformers for the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
import torch

from paceline.verifier.model.apart import load_apart
from paceline.verifier.model.lean_runner import LeanRunner
from paceline.verifier.model.native_runner import NativeRunner
from paceline.verifier.model.runner import Runner
from paceline.verifier.model.target import Target, Unsuited, Wanted, locate, resolve_device, resolve_dtype
from paceline.verifier.native.build import load_library
from paceline.wire.native.library import NoNativeCode
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
        engine: its name.
    """

    target: Target
    runner: Runner
    reference: torch.Tensor
    engine: str


async def open_target(wanted: Wanted, engine: str) -> Opened:
    """Loads a model into an engine.

    Args:
        wanted: the model.
        engine: one of ENGINES, or "auto": the first of AUTO_ENGINES that suits.

    Raises:
        StartupError: the model can't be loaded, or the engine that was asked for doesn't suit.
    """
    locate(wanted.name)  # the commonest mistakes are said at once, before anything large is imported
    if engine != AUTO:
        try:
            return await ENGINES[engine](wanted)
        except Unsuited as error:
            raise StartupError(f"--engine {engine}: {error}") from error
    for name in AUTO_ENGINES[resolve_device(wanted.device, wanted.place).type]:
        try:
            opened = await ENGINES[name](wanted)
        except Unsuited as error:
            log.warning("an engine doesn't suit; taking a slower one", engine=name, why=str(error))
        else:
            log.info("engine", engine=name, **({"product": opened.runner.product} if opened.runner.product else {}))
            return opened
    raise StartupError("no engine can run this model")


async def _native(wanted: Wanted) -> Opened:
    device, kind = resolve_device(wanted.device, wanted.place), resolve_dtype(wanted.dtype)
    _check_alone(wanted)
    if device.type != "cpu":
        raise Unsuited(f"it computes on the CPU, the model is for {device}")
    if kind not in (torch.float32, torch.bfloat16):
        raise Unsuited(f"it computes with float32 and bfloat16 weights, these are {kind}")
    num_threads = torch.get_num_threads()
    try:
        library = await asyncio.to_thread(load_library)
    except NoNativeCode as error:
        raise Unsuited(str(error)) from error
    handed = await load_apart(wanted, num_threads)
    runner = await asyncio.to_thread(NativeRunner, library, handed.weights, num_threads)
    return Opened(handed.target, runner, handed.reference, "native")


def _check_alone(wanted: Wanted) -> None:
    if wanted.place.size > 1:
        raise Unsuited(f"it runs in one process, the model is shared out among {wanted.place.size}")


async def _lean(wanted: Wanted) -> Opened:
    _check_alone(wanted)
    return await asyncio.to_thread(_load_lean, wanted)


def _load_lean(wanted: Wanted) -> Opened:
    # Only who needs transformers' models in this process shall pay for importing them.
    from paceline.verifier.model.exactness import reference_logits
    from paceline.verifier.model.extract import NotLlamaLike, check_config, extract
    from paceline.verifier.model.load import find_target, load_target

    found = find_target(wanted)
    try:
        check_config(found.config)
        target, model = load_target(wanted, found)
        weights = extract(model)
    except NotLlamaLike as error:
        raise Unsuited(str(error)) from error
    reference = reference_logits(model)
    del model
    if weights.embedding.is_cuda:
        torch.cuda.empty_cache()  # of the weights that were laid out anew: the cache may have it
    return Opened(target, LeanRunner(weights), reference, "lean")


async def _transformers(wanted: Wanted) -> Opened:
    return await asyncio.to_thread(_load_transformers, wanted)


def _load_transformers(wanted: Wanted) -> Opened:
    from paceline.verifier.model.exactness import reference_logits
    from paceline.verifier.model.linear import pack_linears
    from paceline.verifier.model.load import find_target, load_target
    from paceline.verifier.model.transformers_runner import TransformersRunner

    target, model = load_target(wanted, find_target(wanted))
    reference = reference_logits(model)
    if model.device.type == "cpu":
        log.info("packed linear layers", layers=pack_linears(model))
    return Opened(target, TransformersRunner(model), reference, "transformers")


ENGINES: dict[str, Callable[[Wanted], Awaitable[Opened]]] = {
    "native": _native,
    "lean": _lean,
    "transformers": _transformers,
}
# On the CPU the lean decoder only shows that it computes the same: it is made for devices where starting work is dear.
AUTO_ENGINES = {"cpu": ("native", "transformers"), "cuda": ("lean", "transformers")}
