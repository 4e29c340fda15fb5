"""The `serve` command: puts the parts of a trainer together and runs them."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from pathlib import Path

import structlog

from paceline.trainer.durable import FolderInUse, lock_folder, make_private_folder
from paceline.trainer.metrics import Metrics
from paceline.trainer.replay import MIB, ReplayBuffer, replay_bounds
from paceline.trainer.revisions import RevisionStore
from paceline.trainer.segment import NewerFormat
from paceline.trainer.service import Stores, TrainerService
from paceline.trainer.settings import TrainerSettings
from paceline.trainer.version import VERSION
from paceline.v1 import router_pb2, trainer_pb2_grpc
from paceline.wire import logs
from paceline.wire.membership import Membership
from paceline.wire.server import Server, run
from paceline.wire.settings import StartupError
from paceline.wire.telemetry import Telemetry
from paceline.wire.version import make_peer

log = structlog.get_logger()

SERVICE = "paceline.v1.Trainer"


class Trainer:
    """The process: stores, service, and the routers' knowledge of it. Make it inside a running event loop."""

    def __init__(self, settings: TrainerSettings) -> None:
        self.server = Server(settings, [SERVICE])
        self.telemetry = Telemetry(settings, "trainer", VERSION)
        metrics = Metrics(self.telemetry.registry)
        self.service = TrainerService(time.time, metrics=metrics, spans=self.telemetry.spans)
        metrics.show(lambda: self.service.stores, lambda: len(self.service.watchers))
        trainer_pb2_grpc.add_TrainerServicer_to_server(self.service, self.server.grpc)
        self._settings = settings
        self._id = settings.trainer_id or f"trainer-{secrets.token_hex(4)}"
        self._lock: int | None = None
        self._membership: Membership | None = None

    async def start(self) -> None:
        """Raises StartupError if the folder, or the address for metrics, can't be used."""
        self.telemetry.open()
        if self.telemetry.address:
            self.server.other_addresses["metrics"] = self.telemetry.address
        folder = self._settings.data.expanduser()
        try:
            self.service.stores = await self._open(folder)
        except FolderInUse as error:
            raise StartupError(
                f"--data {folder}: another trainer uses this folder; stop it, or choose another"
            ) from error
        except NewerFormat as error:
            raise StartupError(
                f"--data {folder}: {error}; install a newer paceline-trainer, or choose another"
            ) from error
        except OSError as error:
            raise StartupError(f"--data {folder}: {error.strerror}: {error.filename}") from error
        routers = [address.strip() for address in self._settings.router.split(",") if address.strip()]
        if routers:
            self._membership = Membership(routers, self._settings, self._describe)
            self._membership.start()

    async def _open(self, folder: Path) -> Stores:
        self._lock = await asyncio.to_thread(_take_folder, folder)
        settings = self._settings
        bounds = replay_bounds(settings.replay_max_mib * MIB, settings.replay_ttl_h * 3600)
        replay = ReplayBuffer(folder / "replay", bounds, time.time)
        revisions = await asyncio.to_thread(RevisionStore, folder / "revisions")
        await replay.open()
        log.info("folder opened", lessons=replay.view.num_records, revisions=len(revisions.newest_first()))
        return Stores(replay, revisions)

    def _describe(self) -> router_pb2.Member:
        return router_pb2.Member(
            id=self._id,
            role=router_pb2.ROLE_TRAINER,
            name=self._id,
            address=self.server.advertised,
            peer=make_peer("paceline-trainer", VERSION),
        )

    async def drain(self) -> None:
        """First the routers are told; then watchers' streams end, which would never do so by themselves."""
        await self._leave()
        self.service.watchers.close()

    async def close(self) -> None:
        await self._leave()
        await self.service.close()
        if self.service.stores is not None:
            await self.service.stores.replay.close()
        if self._lock is not None:
            os.close(self._lock)
        await self.telemetry.close()

    async def _leave(self) -> None:
        membership, self._membership = self._membership, None
        if membership is not None:
            await membership.leave()


def _take_folder(folder: Path) -> int:
    if not folder.exists():  # one that exists may be others' too; what is private has its own folders in it
        make_private_folder(folder)
    return lock_folder(folder)


def serve(settings: TrainerSettings) -> int:
    """Runs a trainer until it is told to stop; returns the exit code."""
    logs.configure(settings.log_level, settings.log_json)

    async def life() -> int:
        trainer = Trainer(settings)
        return await run(trainer.server, trainer.start, trainer.drain, trainer.close)

    return asyncio.run(life())
