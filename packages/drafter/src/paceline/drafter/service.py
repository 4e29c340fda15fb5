"""The `serve` command: puts the parts of a drafter together and runs them."""

from __future__ import annotations

import asyncio
import random
import secrets
import time

from paceline.drafter import convert
from paceline.drafter.calibration import Calibration
from paceline.drafter.fleet import Fleet
from paceline.drafter.link import Identity, Link
from paceline.drafter.memory import Memory
from paceline.drafter.session import Sessions, Terms
from paceline.drafter.settings import DrafterSettings, split
from paceline.drafter.strategies import STRATEGIES
from paceline.v1 import router_pb2
from paceline.wire import logs
from paceline.wire.membership import Membership
from paceline.wire.server import Server, run
from paceline.wire.settings import StartupError


def serve(settings: DrafterSettings) -> int:
    """Runs a drafter until it is told to stop; returns the exit code."""
    logs.configure(settings.log_level, settings.log_json)
    if not split(settings.verifiers) and not split(settings.router):
        raise StartupError("no one to draft for: give --verifiers host:port or --router host:port")
    return asyncio.run(_serve(settings))


async def _serve(settings: DrafterSettings) -> int:
    identity = make_identity(settings)
    # A drafter dials; its own port offers health and reflection only.
    server = Server(settings, ())
    fleet = make_fleet(settings, identity)
    membership = Membership(
        split(settings.router),
        settings,
        lambda: convert.member(identity.drafter_id, identity.name, identity.strategies),
        lambda members: fleet.update(member.address for member in members if member.role == router_pb2.ROLE_VERIFIER),
    )

    async def start() -> None:
        fleet.update(())
        membership.start()

    async def drain() -> None:
        await membership.leave()  # first, since a roster that comes in would open links again
        await fleet.close()

    return await run(server, start, drain, fleet.close)


def make_identity(settings: DrafterSettings) -> Identity:
    """Who this drafter is, with what was not set filled in."""
    strategies = tuple(split(settings.strategies))
    name = settings.name or "+".join(strategies)
    return Identity(
        drafter_id=settings.drafter_id or f"{name}-{secrets.token_hex(4)}",
        name=name,
        strategies=strategies,
        commit_top_k=max(STRATEGIES[strategy].commit_top_k for strategy in strategies),
    )


def make_fleet(settings: DrafterSettings, identity: Identity) -> Fleet:
    """The links to verifiers. They share one memory, and one record of what a confidence is worth."""
    memory = Memory(identity.strategies, settings.memory_max_tokens)
    calibrations = [Calibration() for _ in identity.strategies]

    def new_sessions(terms: Terms) -> Sessions:
        return Sessions(terms, memory, calibrations, settings.max_nodes, time.perf_counter)

    def new_link(address: str) -> Link:
        return Link(address, settings, identity, new_sessions, random.random)

    return Fleet(split(settings.verifiers), new_link)
