"""Announcing a service to the routers: a lease that is renewed until the service leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import grpc
import structlog

from paceline.v1 import router_pb2, router_pb2_grpc
from paceline.wire.channel import connect
from paceline.wire.errors import PacelineError
from paceline.wire.settings import ClientSettings
from paceline.wire.status import from_rpc_error
from paceline.wire.tls import hint
from paceline.wire.version import check_peer
from paceline.wire.waiting import happens

log = structlog.get_logger()

RETRY_S = 0.5
MAX_INTERVAL_S = 2.0


class Membership:
    """Keeps one service announced to every router it was told of, and hears from them who else is there.

    Use: `asyncio.create_task(membership.run())`, later `await membership.leave()`.

    Args:
        routers: host:port of each.
        settings: how to dial them.
        describe: what to announce, asked anew for each announcement (load changes).
        on_roster: called with the union of all routers' verifiers and trainers after each announcement.
        on_verdict: called with what a router has found out about a drafter on trial, each time it says so.
    """

    def __init__(
        self,
        routers: Sequence[str],
        settings: ClientSettings,
        describe: Callable[[], router_pb2.Member],
        on_roster: Callable[[list[router_pb2.Member]], None] = lambda _members: None,
        on_verdict: Callable[[router_pb2.TrialVerdict], None] = lambda _verdict: None,
    ) -> None:
        self._settings = settings
        self._describe = describe
        self._on_roster = on_roster
        self._on_verdict = on_verdict
        self._channels = {address: connect(address, settings) for address in routers}
        self._rosters: dict[str, list[router_pb2.Member]] = {}
        self._task: asyncio.Task[None] | None = None
        self._renew = asyncio.Event()

    def start(self) -> None:
        self._task = asyncio.create_task(self.run())

    def renew_now(self) -> None:
        """Announces again at once, because something changed that routers should know."""
        self._renew.set()

    async def run(self) -> None:
        """Announces for ever, to all routers at once."""
        async with asyncio.TaskGroup() as group:
            for address, channel in self._channels.items():
                group.create_task(self._keep(address, router_pb2_grpc.RegistryStub(channel)))

    async def _keep(self, address: str, registry: router_pb2_grpc.RegistryStub) -> None:
        known = False
        complaint = ""
        while True:
            pause_s = RETRY_S
            try:
                response = await registry.Announce(router_pb2.AnnounceRequest(member=self._describe()), timeout=5.0)
                check_peer(response.peer)
                if not known:
                    log.info("announced", router=address)
                known = True
                self._rosters[address] = [*response.verifiers, *response.trainers]
                self._on_roster(self._union())
                if response.verdict.outcome != router_pb2.TrialVerdict.OUTCOME_UNSPECIFIED:
                    self._on_verdict(response.verdict)
                pause_s = min(response.lease_s / 3, MAX_INTERVAL_S)
            except (grpc.aio.AioRpcError, PacelineError) as error:
                refusal = from_rpc_error(error) if isinstance(error, grpc.aio.AioRpcError) else error
                advice = "" if refusal or not isinstance(error, grpc.aio.AioRpcError) else self._advice(error)
                why = refusal.message if refusal else advice or "it can't be reached"
                # A router that isn't there yet is nothing to complain of; one that says no, or nobody can talk to, is.
                if known or ((refusal is not None or advice) and why != complaint):
                    log.warning("router lost", router=address, why=why)
                known, complaint = False, why
                if refusal is not None:
                    pause_s = MAX_INTERVAL_S  # it is there and says no: asking more often won't help
            await self._pause(pause_s)

    def _advice(self, error: grpc.aio.AioRpcError) -> str:
        return hint(error.details() or "", self._settings)

    async def _pause(self, seconds: float) -> None:
        if await happens(self._renew, seconds):
            self._renew.clear()

    def _union(self) -> list[router_pb2.Member]:
        members = {(member.role, member.id): member for roster in self._rosters.values() for member in roster}
        return list(members.values())

    async def leave(self) -> None:
        """Withdraws from every router that can be reached, and stops announcing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        member = self._describe()
        request = router_pb2.WithdrawRequest(id=member.id, role=member.role)
        withdrawals = [
            router_pb2_grpc.RegistryStub(channel).Withdraw(request, timeout=1.0) for channel in self._channels.values()
        ]
        await asyncio.gather(*withdrawals, return_exceptions=True)
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))
