"""How things stand, over HTTP: the same as GetStatus tells over gRPC, and what became of it over time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from paceline.router.history import EventKind
from paceline.router.intake import Intake
from paceline.router.learner import ArmReport
from paceline.router.member import Member
from paceline.router.standing import arms_of, members_of
from paceline.router.version import VERSION
from paceline.wire.version import PROTOCOL_MAJOR, PROTOCOL_MINOR

DIGITS = 4


class MemberStatus(BaseModel):
    """Who is registered; fields are as in the protocol's Member."""

    id: str
    role: str
    name: str
    address: str
    model: str
    strategies: list[str]
    revision: str
    load: int
    capacity: int
    draining: bool
    connected: list[str]
    """Ids of the drafters on a verifier's streams."""
    own: bool
    trial_of: str
    version: str


class ArmStatus(BaseModel):
    """What is believed of an arm."""

    model: str
    drafters: list[str]
    """By name; none is plain decoding."""
    max_nodes: int
    pulls: float
    """Segments, discounted as the policy discounts."""
    mean_reward: float
    """One and the share of plain decoding's time that was saved; 0 without segments."""
    bonus: float | None
    """That the policy adds to the mean reward for being uncertain; null: however much it takes to be tried first."""
    speed: float
    """Relative to plain decoding: 2 is twice as fast; 0 without segments."""


class Status(BaseModel):
    version: str
    protocol: str
    uptime_s: float
    policy: str
    active_requests: int
    finished_requests: int
    members: list[MemberStatus]
    arms: list[ArmStatus]


class ArmHistory(BaseModel):
    """One arm's estimates at each of the history's times; null where it couldn't be chosen."""

    model: str
    drafters: list[str]
    max_nodes: int
    pulls: list[float | None]
    speed: list[float | None]


class HistoryEvent(BaseModel):
    """A member came, left, has another revision, is on trial or got a verdict; or the policy is another."""

    time_s: float
    kind: EventKind
    role: str
    id: str
    name: str
    before: str
    after: str


class HistoryStatus(BaseModel):
    """The last points and events, the oldest first. Times are seconds since 1970."""

    now_s: float
    times_s: list[float]
    arms: list[ArmHistory]
    events: list[HistoryEvent]


def add_standing(
    app: FastAPI, intake: Intake, wall_clock: Callable[[], float], errors: dict[int | str, dict[str, Any]]
) -> None:
    """GET /paceline/status and GET /paceline/history.

    Args:
        app: gets the routes.
        intake: of the router.
        wall_clock: seconds since 1970.
        errors: how they may fail, for the OpenAPI document.
    """
    backend, admission = intake.backend, intake.admission
    started_s = backend.clock()

    @app.get("/paceline/status", responses=errors)
    async def status() -> Status:
        """Who is there, and what is believed of the arms."""
        return Status(
            version=VERSION,
            protocol=f"{PROTOCOL_MAJOR}.{PROTOCOL_MINOR}",
            uptime_s=round(backend.clock() - started_s, DIGITS),
            policy=backend.learner.name,
            active_requests=admission.num_active,
            finished_requests=admission.num_finished,
            members=[_member(member) for member in members_of(backend)],
            arms=[_arm(model, report) for model, report in arms_of(backend)],
        )

    @app.get("/paceline/history", responses=errors)
    async def history() -> HistoryStatus:
        """Estimates of the arms over time, and what happened to members: bounded, and gone with this router."""
        known = backend.history
        return HistoryStatus(
            now_s=wall_clock(),
            times_s=[round(time_s, 1) for time_s in known.times_s],
            arms=[
                ArmHistory(
                    model=one.model,
                    drafters=list(one.arm.drafters),
                    max_nodes=one.arm.max_nodes,
                    pulls=[None if point is None else round(point.segments, DIGITS) for point in one.estimates],
                    speed=[None if point is None else round(point.speed, DIGITS) for point in one.estimates],
                )
                for one in known.series()
            ],
            events=[
                HistoryEvent(
                    time_s=event.time_s,
                    kind=event.kind,
                    role=event.role,
                    id=event.member_id,
                    name=event.name,
                    before=event.before,
                    after=event.after,
                )
                for event in known.events
            ],
        )


def _member(member: Member) -> MemberStatus:
    return MemberStatus(
        id=member.member_id,
        role=member.role.value,
        name=member.name,
        address=member.address,
        model=member.model,
        strategies=list(member.strategies),
        revision=member.revision,
        load=member.load,
        capacity=member.capacity,
        draining=member.draining,
        connected=list(member.connected),
        own=member.own,
        trial_of=member.trial_of,
        version=member.version,
    )


def _arm(model: str, report: ArmReport) -> ArmStatus:
    return ArmStatus(
        model=model,
        drafters=list(report.arm.drafters),
        max_nodes=report.arm.max_nodes,
        pulls=report.pulls,
        mean_reward=report.reward,
        bonus=report.bonus if math.isfinite(report.bonus) else None,
        speed=report.mean,
    )
