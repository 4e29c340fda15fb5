"""paceline-trainer: keeps lessons and revisions."""

from __future__ import annotations

import asyncio
import secrets
import sys

from paceline.trainer.remote import fetch, publish, revisions
from paceline.trainer.replay import FolderInUse, ReplayBuffer
from paceline.trainer.revisions import RevisionStore
from paceline.trainer.service import TrainerService
from paceline.trainer.settings import FetchSettings, PublishSettings, RevisionsSettings, TrainerSettings
from paceline.trainer.version import VERSION
from paceline.v1 import router_pb2, trainer_pb2_grpc
from paceline.wire import logs
from paceline.wire.membership import Membership
from paceline.wire.server import Server, run
from paceline.wire.settings import Command, StartupError, run_commands
from paceline.wire.version import make_peer

SERVICE = "paceline.v1.Trainer"
MIB = 1024 * 1024


class Trainer:
    """The process."""

    def __init__(self, settings: TrainerSettings) -> None:
        self.server = Server(settings, [SERVICE])
        self._settings = settings
        self._id = settings.trainer_id or f"trainer-{secrets.token_hex(4)}"
        self._replay, store = open_stores(settings)
        self._membership: Membership | None = None
        self._draining = False
        trainer_pb2_grpc.add_TrainerServicer_to_server(TrainerService(self._replay, store), self.server.grpc)

    async def start(self) -> None:
        if self._settings.router:
            self._membership = Membership(self._settings.router.split(","), self._settings, self._describe)
            self._membership.start()

    def _describe(self) -> router_pb2.Member:
        return router_pb2.Member(
            id=self._id,
            role=router_pb2.ROLE_TRAINER,
            name=self._id,
            address=self.server.advertised,
            draining=self._draining,
            peer=make_peer("paceline-trainer", VERSION),
        )

    async def drain(self) -> None:
        self._draining = True
        if self._membership is not None:
            await self._membership.leave()
            self._membership = None
        # Watchers' streams never end by themselves; what is stored is on disk already.
        self._settings.drain_s = min(self._settings.drain_s, 1.0)

    async def close(self) -> None:
        if self._membership is not None:
            await self._membership.leave()
        self._replay.close()


def open_stores(settings: TrainerSettings) -> tuple[ReplayBuffer, RevisionStore]:
    """Raises StartupError if the folder can't be used."""
    folder = settings.data.expanduser()
    try:
        replay = ReplayBuffer(folder / "replay", settings.replay_max_mib * MIB, settings.replay_ttl_h * 3600)
        return replay, RevisionStore(folder / "revisions")
    except FolderInUse as error:
        raise StartupError(f"--data {folder}: another trainer uses this folder; stop it, or choose another") from error
    except OSError as error:
        raise StartupError(f"--data {folder}: {error.strerror}: {error.filename}") from error


def serve(settings: TrainerSettings) -> int:
    logs.configure(settings.log_level, settings.log_json)

    async def life() -> int:
        trainer = Trainer(settings)
        return await run(trainer.server, trainer.start, trainer.drain, trainer.close)

    return asyncio.run(life())


COMMANDS = {
    "serve": Command("keep lessons and revisions", TrainerSettings, serve),
    "publish": Command("publish a folder as a revision", PublishSettings, publish),
    "fetch": Command("fetch a revision, checking every byte", FetchSettings, fetch),
    "revisions": Command("list revisions", RevisionsSettings, revisions),
}


def main() -> int:
    return run_commands("paceline-trainer", VERSION, COMMANDS, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
