"""The `serve` command: puts the parts of a router together and runs them."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from functools import partial
from typing import TYPE_CHECKING

import structlog

from paceline.router.access.lock import Lock
from paceline.router.admin.port import LOOPBACK, admin_address
from paceline.router.admin.service import AdminService
from paceline.router.admission import Admission
from paceline.router.affinity import Affinity
from paceline.router.backend import Backend
from paceline.router.chronicle import Chronicle
from paceline.router.hedging import Hedging
from paceline.router.history import History
from paceline.router.intake import Intake
from paceline.router.learning import Learning
from paceline.router.member import Role
from paceline.router.metrics import Metrics
from paceline.router.policies import POLICIES
from paceline.router.policies.base import PolicyOptions
from paceline.router.present import Present
from paceline.router.registry import Registry
from paceline.router.roster import Roster
from paceline.router.service import RegistryService, RouterService
from paceline.router.settings import AUTO, RouterSettings
from paceline.router.state import shown, store_maker
from paceline.router.state.base import StoreError
from paceline.router.trial_book import TrialBook
from paceline.router.trials import Rule
from paceline.router.verifiers import Verifiers
from paceline.router.version import VERSION
from paceline.v1 import admin_pb2_grpc, router_pb2_grpc
from paceline.wire import logs
from paceline.wire.channel import connect
from paceline.wire.registry import OnLoop
from paceline.wire.server import Server, run
from paceline.wire.settings import StartupError
from paceline.wire.telemetry import Telemetry
from paceline.wire.waiting import happens

if TYPE_CHECKING:
    from paceline.router.http.door import Door

log = structlog.get_logger()

SERVICES = ("paceline.v1.Router", "paceline.v1.Registry")
ADMIN_SERVICE = "paceline.v1.Admin"
PLAIN_NAME = "none"


class Router:
    """The process: state, registry, services. Make it inside a running event loop."""

    def __init__(self, settings: RouterSettings) -> None:
        self.settings = settings
        self.telemetry = Telemetry(settings, "router", VERSION)
        options = PolicyOptions(fixed_drafters=fixed_drafters(settings.fixed_arm))
        self.backend = Backend(
            roster=Roster(Registry(settings.lease_s), time.monotonic),
            learner=Learning(
                {name: partial(make, options) for name, make in POLICIES.items()},
                settings.policy,
                store_maker(settings.state),
            ),
            verifiers=Verifiers(settings),
            trials=TrialBook(Rule(segments=settings.trial_segments), settings.trial_every, random.random),
            small_budget=settings.small_budget,
            segment_tokens=settings.segment_tokens,
            failover_wait_s=settings.failover_wait_s,
            accept_s=settings.accept_s,
            affinity=Affinity(settings.affinity_slack, secrets.token_bytes(32)),
            hedging=Hedging(settings.hedge_after_s, settings.hedge_share),
            history=History(),
            clock=time.monotonic,
            metrics=Metrics(self.telemetry.registry),
            spans=self.telemetry.spans,
        )
        self.chronicle = Chronicle(self.backend, time.time)
        self.lock = Lock(settings)
        self.server = Server(settings, SERVICES, self.lock.tokens)
        self.admission = Admission(settings.max_requests)
        self.intake = Intake(self.backend, self.admission, max_request_s=settings.max_request_s or None)
        self.telemetry.registry.register(OnLoop(Present(self.intake), asyncio.get_running_loop()))
        self.door = self._make_door()
        self.admin = self._make_admin(admin_address(settings))
        service = RouterService(self.intake, self.lock.access)
        router_pb2_grpc.add_RouterServicer_to_server(service, self.server.grpc)
        router_pb2_grpc.add_RegistryServicer_to_server(RegistryService(self.backend), self.server.grpc)
        self._sweeper: asyncio.Task[None] | None = None

    def _make_door(self) -> Door | None:
        """The HTTP server, if there is to be one: only then its packages are needed."""
        if not self.settings.http:
            return None
        try:
            from paceline.router.http.door import Door
        except ModuleNotFoundError as error:
            raise StartupError(f"--http needs {error.name}: pip install 'paceline-router[http]'") from error
        return Door(self.settings.http, self.settings, self.intake, self.lock.access, page=self.settings.page)

    def _make_admin(self, address: str) -> Server | None:
        """A port of its own, so that who can reach one can't reach the other."""
        if not address:
            return None
        settings = self.settings.model_copy(update={"admin": address})
        server = Server(settings, (ADMIN_SERVICE,), self.lock.tokens, setting="admin")
        admin_pb2_grpc.add_AdminServicer_to_server(AdminService(self.backend, self.lock.tokens), server.grpc)
        return server

    async def start(self) -> None:
        """Raises StartupError."""
        # A certificate that can't be used is said now, not at the first request.
        await connect(self.server.address, self.settings).close(grace=None)
        try:
            await self.backend.learner.start()
        except StoreError as error:
            raise StartupError(str(error)) from error
        log.info("state opened", state=shown(self.settings.state), policy=self.settings.policy)
        self._sweeper = asyncio.create_task(self._sweep(), name="sweeper")
        self.telemetry.open()
        if self.telemetry.address:
            self.server.other_addresses["metrics"] = self.telemetry.address
        await self._open_admin()
        if self.door is not None:
            await self.door.open()
            self.chronicle.start()
            self.server.other_addresses["http"] = self.door.address
        self.lock.start()

    async def _open_admin(self) -> None:
        if self.admin is None:
            return
        try:
            await self.admin.bind()
        except StartupError as error:
            if self.settings.admin != AUTO:
                raise
            # Nobody asked for that port; and one that was free at the last start may be anybody's now.
            log.warning("the admin port is another than expected", why=str(error))
            self.admin = self._make_admin(f"{LOOPBACK}:0")
            assert self.admin is not None
            await self.admin.bind()
        await self.admin.set_ready(True)
        self.server.other_addresses["admin"] = self.admin.address
        log.info("admin", address=self.admin.address)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self.settings.lease_s / 4)
            self.backend.verifiers.keep_only({member.address for member in self.backend.roster.sweep()})
            self.backend.trials.keep_only({member.member_id for member in self.backend.roster.members(Role.DRAFTER)})

    async def drain(self) -> None:
        """No new requests; running ones get `drain_s`."""
        self.admission.draining = True
        await happens(self.admission.idle, self.settings.drain_s)

    async def close(self) -> None:
        await self.lock.close()
        self.chronicle.close()
        if self.door is not None:
            await self.door.close()
        if self.admin is not None:
            await self.admin.grpc.stop(None)
        if self._sweeper is not None:
            self._sweeper.cancel()
        await self.backend.verifiers.close()
        await self.backend.learner.close()
        await self.telemetry.close()


def fixed_drafters(setting: str) -> tuple[str, ...] | None:
    """What --fixed-arm means: None for all, () for none, else names."""
    names = tuple(part.strip() for part in setting.split(",") if part.strip())
    if names == (PLAIN_NAME,):
        return ()
    return names or None


def serve(settings: RouterSettings) -> int:
    """Runs a router until it is told to stop; returns the exit code."""
    logs.configure(settings.log_level, settings.log_json)

    async def life() -> int:
        router = Router(settings)
        return await run(router.server, router.start, router.drain, router.close)

    return asyncio.run(life())
