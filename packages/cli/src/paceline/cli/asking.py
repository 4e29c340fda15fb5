"""Asking a router or a trainer: one place where a failed call becomes a line that says what to do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio

from paceline.cli.command import CommandError
from paceline.cli.settings import RouterSettings, TrainerSettings
from paceline.v1 import router_pb2, router_pb2_grpc, trainer_pb2_grpc
from paceline.wire.channel import connect
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.settings import ClientSettings
from paceline.wire.status import from_rpc_error
from paceline.wire.tls import hint
from paceline.wire.version import check_peer

TIMEOUT_S = 10.0

_ADVICE = {
    Reason.UNAUTHENTICATED: "give the token with PACELINE_TOKEN",
    Reason.PERMISSION_DENIED: "use a token whose roles allow it",
    Reason.NO_VERIFIER: "start one, or wait until it has loaded its model; 'paceline status' shows who is there",
    Reason.UNKNOWN_DRAFTER: "'paceline drafters' lists them",
    Reason.OVERLOADED: "try again in a moment",
}


@asynccontextmanager
async def router_stub(settings: RouterSettings) -> AsyncIterator[router_pb2_grpc.RouterStub]:
    """The router's calls; what fails in the block becomes a CommandError."""
    async with connect(settings.address, settings) as channel:
        with_what = f"the router at {settings.address}"
        try:
            yield router_pb2_grpc.RouterStub(channel)
        except grpc.aio.AioRpcError as error:
            raise CommandError(explained(error, with_what, settings)) from error


@asynccontextmanager
async def trainer_stub(settings: TrainerSettings) -> AsyncIterator[trainer_pb2_grpc.TrainerStub]:
    """The same of a trainer: the one that is named, or that the router knows."""
    address = settings.trainer or await _known_trainer(settings)
    async with connect(address, settings) as channel:
        try:
            yield trainer_pb2_grpc.TrainerStub(channel)
        except grpc.aio.AioRpcError as error:
            raise CommandError(explained(error, f"the trainer at {address}", settings)) from error


async def get_status(stub: router_pb2_grpc.RouterStub) -> router_pb2.GetStatusResponse:
    """Raises AioRpcError, or PacelineError if the router speaks another protocol."""
    response = await stub.GetStatus(router_pb2.GetStatusRequest(), timeout=TIMEOUT_S)
    check_peer(response.peer)
    return response


async def ask_status(settings: RouterSettings) -> router_pb2.GetStatusResponse:
    """One look at the deployment. Raises CommandError."""
    async with router_stub(settings) as stub:
        return await get_status(stub)


def explained(error: grpc.aio.AioRpcError, whom: str, settings: ClientSettings) -> str:
    """A failed call in one line: whom it was to, why it failed, what to do."""
    refusal = from_rpc_error(error)
    if refusal is not None:
        return _refused(refusal, whom)
    details = " ".join((error.details() or "").split())
    if advice := hint(details, settings):
        return f"{whom} can't be talked to: {advice}"
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        why = "nobody listens there" if "Connection refused" in details else details
        return f"{whom} can't be reached: {why}; 'paceline up' starts one here, 'paceline doctor' looks what is wrong"
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"{whom} did not answer in time; 'paceline doctor' looks what is wrong"
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return f"{whom} doesn't know this call: it is another service, or an older release"
    return f"{whom} failed: {error.code().name}: {details}"


def _refused(refusal: PacelineError, whom: str) -> str:
    advice = _ADVICE.get(refusal.reason, "")
    return f"{whom} refuses: {refusal.message}{'; ' + advice if advice else ''}"


async def _known_trainer(settings: TrainerSettings) -> str:
    members = (await ask_status(settings)).members
    known = [member.address for member in members if member.role == router_pb2.ROLE_TRAINER]
    if not known:
        raise CommandError(
            f"the router at {settings.address} knows no trainer; start one, or name it with --trainer host:port"
        )
    return known[0]
