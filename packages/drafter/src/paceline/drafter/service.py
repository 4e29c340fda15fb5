"""The `serve` command: puts the parts of a drafter together and runs them."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Sequence

from paceline.drafter.drafting import Drafting, DraftModel
from paceline.drafter.features import needs_in_common
from paceline.drafter.identity import Identity
from paceline.drafter.line import Line
from paceline.drafter.loading import Loader
from paceline.drafter.memory import Memory
from paceline.drafter.metrics import Metrics
from paceline.drafter.observing import Observing
from paceline.drafter.presence import Drafter
from paceline.drafter.settings import DrafterSettings, split
from paceline.drafter.strategies import STRATEGIES, open_resources
from paceline.drafter.version import VERSION
from paceline.drafter.watch import NOBODY, Watch
from paceline.wire import logs
from paceline.wire.channel import connect
from paceline.wire.errors import PacelineError
from paceline.wire.server import Server, run
from paceline.wire.settings import StartupError
from paceline.wire.telemetry import Telemetry

SAVE_EVERY_S = 60.0


def give_way() -> None:
    """This process computes only when no other wants the processor.

    A step of a model takes as long as its slowest thread, so a drafter at work on one of the model's processors makes
    it longer by its own time. A nice value would leave it a slice of the processor now and then; SCHED_IDLE doesn't.

    Raises:
        StartupError: the system can't do that.
    """
    if not hasattr(os, "SCHED_IDLE"):
        raise StartupError("--give-way needs Linux's SCHED_IDLE; leave it out")
    for thread in os.listdir("/proc/self/task"):  # libraries have begun some; what these begin is as they are
        os.sched_setscheduler(int(thread), os.SCHED_IDLE, os.sched_param(0))


def serve(settings: DrafterSettings) -> int:
    """Runs a drafter until it is told to stop; returns the exit code."""
    logs.configure(settings.log_level, settings.log_json)
    if not split(settings.verifiers) and not split(settings.router):
        raise StartupError("no one to draft for: give --verifiers host:port or --router host:port")
    if settings.give_way:
        give_way()
    return asyncio.run(_serve(settings))


async def _serve(settings: DrafterSettings) -> int:
    async with connect((split(settings.verifiers) or split(settings.router))[0], settings):
        pass  # nothing is dialled yet, but certificates that can't be read are said now and not by each link
    telemetry = Telemetry(settings, "drafter", VERSION)
    line = Line(settings) if settings.line else None
    if line is not None and not settings.revision:
        settings = settings.model_copy(update={"revision": str((await line.first()).folder)})
    # A drafter dials; its own port offers health and reflection only.
    server = Server(settings, ())
    loader = Loader(settings)
    models = await asyncio.to_thread(loader.models)
    identity = make_identity(settings, models)
    metrics = Metrics(telemetry.registry, identity.strategies)
    metrics.show(identity, models, lambda: line.num_refused if line is not None else 0)
    told = {"paceline.drafter": identity.name, "paceline.drafter_id": identity.drafter_id}
    watch = Observing(metrics, telemetry.spans, told)
    drafter = Drafter(settings, identity, models, make_drafting(settings, models, watch))
    presence = drafter.presence()

    async def start() -> None:
        telemetry.open()
        if telemetry.address:
            server.other_addresses["metrics"] = telemetry.address
        presence.open()

    async def close() -> None:
        await presence.close()
        await telemetry.close()

    for model in models:
        model.lane.start()
    background = [asyncio.create_task(save_now_and_then(models))]
    if line is not None:
        background.append(asyncio.create_task(line.follow(drafter, loader)))
    try:
        return await run(server, start, presence.close, close)
    finally:
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        for model in models:
            model.lane.stop()
            model.save()


async def save_now_and_then(models: Sequence[DraftModel]) -> None:
    """So that a drafter that is killed loses a minute of what its bridges learned, not all of it."""
    while True:
        await asyncio.sleep(SAVE_EVERY_S)
        for model in models:
            model.lane.call(model.save)


def make_identity(settings: DrafterSettings, models: Sequence[DraftModel] = ()) -> Identity:
    """Who this drafter is, with what was not set filled in. StartupError for heads that want different features."""
    try:
        needs = needs_in_common(model.needs for model in models if model.needs is not None)
    except PacelineError as error:
        raise StartupError(error.message) from error
    strategies = (*settings.quick_strategies, *settings.model_strategies)
    name = settings.name or "+".join(strategies)
    return Identity(
        drafter_id=settings.drafter_id or f"{name}-{secrets.token_hex(4)}",
        name=name,
        strategies=strategies,
        commit_top_k=max((STRATEGIES[strategy].commit_top_k for strategy in settings.quick_strategies), default=0),
        own=settings.own,
        feature_layers=needs.layers if needs is not None else (),
        feature_window=needs.window if needs is not None else 0,
    )


def make_drafting(settings: DrafterSettings, models: Sequence[DraftModel] = (), watch: Watch = NOBODY) -> Drafting:
    """What all streams share: one memory, the models, and one record of what a confidence is worth."""
    try:
        resources = open_resources(settings.quick_strategies, settings.datastore)
    except PacelineError as error:
        raise StartupError(f"--datastore: {error.message}") from error
    memory = Memory(settings.quick_strategies, settings.memory_max_tokens, resources)
    return Drafting(memory, models, settings.max_nodes, settings.ahead, watch)
