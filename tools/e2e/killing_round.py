"""One round: requests through both routers, one process killed among them, everything compared, everything back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from errands import Asked, End, Errand, Known
from fleet import ROUTERS, Fleet, forget, until
from killing_plans import Kind, Plan

LOST = "verifier lost"  # how a router's log says that a request went elsewhere


@dataclass
class Played:
    """What a round came to.

    Attributes:
        running: requests that had begun and weren't over when the victim was killed.
        broken: of the killed router's clients, those whose connection broke.
        failovers: how often a request was carried on at another verifier.
        pause_s: the longest time in which a request of a live router got no token after the kill.
        back_s: from starting the victim again until everybody knew everybody.
        faults: what must not be; empty if all is well.
    """

    plan: Plan
    running: int = 0
    broken: int = 0
    failovers: int = 0
    pause_s: float = 0.0
    back_s: float = 0.0
    faults: list[str] = field(default_factory=list)


async def play(fleet: Fleet, plan: Plan, known: dict[Errand, Known]) -> Played:
    """Plays a round on a deployment that is whole, and leaves it whole.

    Raises AssertionError if the deployment doesn't get well again.
    """
    played = Played(plan)
    segments_before = await _segments(fleet)
    lost_before = _num_lost(fleet, plan)
    asked = [Asked(errand, door, router) for errand, door, router in plan.asked]
    running = [asyncio.create_task(one.run(fleet.addresses[one.router])) for one in asked]
    enough = plan.share * sum(len(known[one.errand].text) for one in asked)
    await until(_said(asked, enough), f"{enough:.0f} characters of {len(asked)} answers")
    _kill(fleet, plan.victim)
    played.running = sum(one.end is End.RUNNING and bool(one.text) for one in asked)
    for one in asked:
        one.mark()
    returning = asyncio.create_task(_bring_back(fleet, plan)) if plan.at_once else None
    await asyncio.gather(*running)
    played.failovers = _num_lost(fleet, plan) - lost_before
    await _judge(fleet, plan, asked, known, played)
    played.back_s = await (returning or _bring_back(fleet, plan))
    await fleet.idle()
    await _state_is_back(fleet, plan, segments_before)
    return played


def _said(asked: list[Asked], characters: float) -> Callable[[], Awaitable[bool]]:
    async def said() -> bool:
        return sum(len(one.text) for one in asked) >= characters

    return said


def _num_lost(fleet: Fleet, plan: Plan) -> int:
    """How often those routers that live through the round have said so."""
    logs = [fleet.service(name).log for name in ROUTERS if name != plan.victim]
    return sum(log.read_text(errors="replace").count(LOST) for log in logs)


async def _segments(fleet: Fleet) -> int:
    evidence = await fleet.evidence()
    return evidence.segments if evidence else 0


def _kill(fleet: Fleet, victim: str) -> None:
    if victim in fleet.stack.services:
        fleet.service(victim).kill()
    else:
        fleet.redis.kill()


async def _bring_back(fleet: Fleet, plan: Plan) -> float:
    """Seconds until everybody knows everybody again."""
    began_s = time.monotonic()
    if plan.kind is Kind.REDIS:
        if plan.forgets:
            forget(fleet.redis)
        await asyncio.to_thread(fleet.redis.start)
    else:
        fleet.start(plan.victim)
        await fleet.serving(plan.victim)
    await fleet.whole()
    return time.monotonic() - began_s


async def _judge(fleet: Fleet, plan: Plan, asked: list[Asked], known: dict[Errand, Known], played: Played) -> None:
    """Every request of a live router has its answer; one of a killed router has it when it is asked of the other."""
    for one in asked:
        if one.router == plan.victim and one.end is End.BROKEN:
            played.broken += 1
            (other,) = set(ROUTERS) - {plan.victim}
            one.router = other
            await one.run(fleet.addresses[other])
        else:
            played.pause_s = max(played.pause_s, one.pause_s)
        if one.end is not End.FINISHED:
            played.faults.append(f"{one.errand} over {one.door.value} through {one.router}: {one.why}")
        elif difference := known[one.errand].difference(one):
            played.faults.append(difference)


async def _state_is_back(fleet: Fleet, plan: Plan, segments_before: int) -> None:
    """Redis has what it had before, or, if it forgot that, what the routers know."""
    least = 1 if plan.forgets else max(1, segments_before)

    async def has_it() -> bool:
        return await _segments(fleet) >= least

    await until(has_it, f"a Redis that knows of {least} segments")
