"""The Router and Registry services: check, call, map, reply."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace

import grpc

from paceline.router import convert
from paceline.router.access.access import Access
from paceline.router.backend import Backend
from paceline.router.checks import MAX_NAME, check_length
from paceline.router.failures import VerifierError
from paceline.router.intake import Intake
from paceline.router.member import Role
from paceline.router.standing import arms_of, members_of
from paceline.router.version import VERSION
from paceline.v1 import generation_pb2, router_pb2, router_pb2_grpc
from paceline.wire.guard import bearer_in
from paceline.wire.status import DETAILS_KEY
from paceline.wire.tracing import traceparent_in
from paceline.wire.version import make_peer

PACKAGE = "paceline-router"
GENERATE = "/paceline.v1.Router/Generate"


class RouterService(router_pb2_grpc.RouterServicer):
    """See router.proto.

    Args:
        intake: takes requests.
        access: says who asks.
    """

    def __init__(self, intake: Intake, access: Access) -> None:
        self._intake = intake
        self._backend = intake.backend
        self._access = access

    async def Generate(
        self, request: generation_pb2.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[generation_pb2.GenerateEvent]:
        metadata = context.invocation_metadata()
        caller = self._access.for_method(GENERATE, bearer_in(metadata))
        traceparent = traceparent_in(metadata) if self._backend.spans.on else ""
        with self._intake.accepted([request], context.time_remaining, caller, traceparent) as (answering,):
            try:
                async with aclosing(answering.events()) as events:
                    async for event in events:
                        yield event
            except VerifierError as error:
                await _pass_on(error, context)

    async def GetStatus(
        self, request: router_pb2.GetStatusRequest, context: grpc.aio.ServicerContext
    ) -> router_pb2.GetStatusResponse:
        return router_pb2.GetStatusResponse(
            peer=make_peer(PACKAGE, VERSION),
            members=[convert.member_to_proto(member) for member in members_of(self._backend)],
            policy=self._backend.learner.name,
            arms=[convert.arm_to_proto(model, report) for model, report in arms_of(self._backend)],
            active_requests=self._intake.admission.num_active,
            finished_requests=self._intake.admission.num_finished,
        )


async def _pass_on(error: VerifierError, context: grpc.aio.ServicerContext) -> None:
    """Ends the call with a verifier's error, code, message and details unchanged."""
    metadata = ((DETAILS_KEY, error.details),) if error.details else ()
    await context.abort(grpc.StatusCode[error.code], error.message, trailing_metadata=metadata)


class RegistryService(router_pb2_grpc.RegistryServicer):
    """See router.proto."""

    def __init__(self, backend: Backend) -> None:
        self._roster = backend.roster
        self._trials = backend.trials

    async def Announce(
        self, request: router_pb2.AnnounceRequest, context: grpc.aio.ServicerContext
    ) -> router_pb2.AnnounceResponse:
        member = convert.member_from_proto(request.member)
        self._roster.announce(member)
        verdict = convert.verdict_to_proto(self._trials.verdict(member.member_id)) if member.trial_of else None
        return router_pb2.AnnounceResponse(
            peer=make_peer(PACKAGE, VERSION),
            lease_s=self._roster.registry.lease_s,
            verifiers=[
                convert.member_to_proto(replace(member, work=None)) for member in self._roster.members(Role.VERIFIER)
            ],
            trainers=[convert.member_to_proto(member) for member in self._roster.members(Role.TRAINER)],
            verdict=verdict,
        )

    async def Withdraw(
        self, request: router_pb2.WithdrawRequest, context: grpc.aio.ServicerContext
    ) -> router_pb2.WithdrawResponse:
        check_length("id", request.id, MAX_NAME)
        self._roster.withdraw(convert.role_from_proto(request.role), request.id)
        return router_pb2.WithdrawResponse()
