"""The `serve` command: puts the parts of a drafter together and runs them."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Sequence

from paceline.drafter import convert
from paceline.drafter.drafting import Drafting, DraftModel, Workload, draft_model
from paceline.drafter.features import needs_in_common
from paceline.drafter.fleet import Fleet
from paceline.drafter.growing import Growth
from paceline.drafter.identity import Identity
from paceline.drafter.link import Link
from paceline.drafter.memory import Memory
from paceline.drafter.models.strategies import MODEL_STRATEGIES
from paceline.drafter.settings import DrafterSettings, make_rule, split
from paceline.drafter.strategies import STRATEGIES, open_resources
from paceline.drafter.trees import TREES
from paceline.drafter.trees.ahead import Ahead
from paceline.drafter.vocabulary.store import BridgeStore
from paceline.v1 import router_pb2
from paceline.wire import logs
from paceline.wire.channel import connect
from paceline.wire.errors import PacelineError
from paceline.wire.membership import Membership
from paceline.wire.server import Server, run
from paceline.wire.settings import StartupError

SAVE_EVERY_S = 60.0


def serve(settings: DrafterSettings) -> int:
    """Runs a drafter until it is told to stop; returns the exit code."""
    logs.configure(settings.log_level, settings.log_json)
    if not split(settings.verifiers) and not split(settings.router):
        raise StartupError("no one to draft for: give --verifiers host:port or --router host:port")
    return asyncio.run(_serve(settings))


async def _serve(settings: DrafterSettings) -> int:
    async with connect((split(settings.verifiers) or split(settings.router))[0], settings):
        pass  # nothing is dialled yet, but certificates that can't be read are said now and not by each link
    # A drafter dials; its own port offers health and reflection only.
    server = Server(settings, ())
    models = await asyncio.to_thread(load_models, settings)
    identity = make_identity(settings, models)
    fleet = make_fleet(settings, identity, models)
    membership = Membership(
        split(settings.router),
        settings,
        lambda: convert.member(identity.drafter_id, identity.name, identity.strategies, identity.own),
        lambda members: fleet.update(member.address for member in members if member.role == router_pb2.ROLE_VERIFIER),
    )

    async def start() -> None:
        fleet.update(())
        membership.start()

    async def drain() -> None:
        await membership.leave()  # first, since a roster that comes in would open links again
        await fleet.close()

    for model in models:
        model.lane.start()
    saving = asyncio.create_task(save_now_and_then(models))
    try:
        return await run(server, start, drain, fleet.close)
    finally:
        saving.cancel()
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


def load_models(settings: DrafterSettings) -> list[DraftModel]:
    """One for each strategy that needs one. Raises StartupError."""
    store = BridgeStore(settings.bridge_store) if settings.bridge_store else None
    models: list[DraftModel] = []
    for strategy in settings.model_strategies:
        kind, shape = MODEL_STRATEGIES[strategy], settings.shape(strategy)
        growth = Growth(TREES[settings.tree](shape), Ahead(shape), make_rule(settings.stopping))
        workload = Workload(
            width=shape.width,
            bridge=settings.bridge,
            max_rows=settings.cache_tokens,
            draft_ahead=settings.ahead,
            guesses=kind.guesses,
            store=store,
        )
        try:
            models.append(draft_model(strategy, kind.load(settings.model_options), growth, workload))
        except PacelineError as error:
            given = settings.revision or settings.model
            raise StartupError(f"strategy {strategy}, {given}: {error.message}") from error
    return models


def make_fleet(settings: DrafterSettings, identity: Identity, models: Sequence[DraftModel] = ()) -> Fleet:
    """The links to verifiers. They share one memory, the models, and one record of what a confidence is worth."""
    try:
        resources = open_resources(settings.quick_strategies, settings.datastore)
    except PacelineError as error:
        raise StartupError(f"--datastore: {error.message}") from error
    memory = Memory(settings.quick_strategies, settings.memory_max_tokens, resources)
    drafting = Drafting(memory, models, settings.max_nodes, settings.ahead)

    def new_link(address: str) -> Link:
        return Link(address, settings, identity, drafting.sessions, random.random)

    return Fleet(split(settings.verifiers), new_link)
