"""Follows a line of revisions at a trainer: new ones are fetched, checked, handed on. The trainer may come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
import structlog

from paceline.drafter.revisions.cache import RevisionCache
from paceline.drafter.revisions.check import Terms, check_announced
from paceline.v1 import trainer_pb2, trainer_pb2_grpc
from paceline.wire.channel import connect
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.revision_folder import Revision
from paceline.wire.settings import ClientSettings, StartupError
from paceline.wire.status import from_rpc_error

log = structlog.get_logger()

FIRST_PAUSE_S = 0.2
MAX_PAUSE_S = 10.0
SILENCE_S = 60.0  # a fetch in which nothing comes for so long is begun again
MAX_REFUSED = 256


@dataclass(frozen=True, slots=True)
class Proposal:
    """A revision that is fetched and checked.

    Attributes:
        revision: its folder is complete.
        returns: it stands in for one that was withdrawn, so it need not show that it is better.
    """

    revision: Revision
    returns: bool = False


class Unfit(Exception):
    """A revision was tried and is not to be used by anybody; the message says why. The trainer is told."""


Take = Callable[[Proposal], Awaitable[None]]


@dataclass(slots=True)
class _Heard:
    """What the trainer said. `news` is set when something in it changed."""

    wanted: trainer_pb2.Revision | None = None
    withdrawn: set[str] = field(default_factory=set)
    news: asyncio.Event = field(default_factory=asyncio.Event)


class Follower:
    """Use: `asyncio.create_task(follower.run())`, and cancel it in the end.

    Args:
        address: host:port of the trainer.
        settings: how to dial.
        terms: what revisions must be.
        cache: for their folders.
        take: puts one to work, and returns when it is, or was refused (PacelineError), or is unfit (Unfit). It is
            cancelled if the revision is withdrawn meanwhile.
        at_work: id of the revision at work at the beginning, "" for none.
        jitter: a number in [0, 1) at each call.
    """

    def __init__(
        self,
        address: str,
        settings: ClientSettings,
        terms: Terms,
        cache: RevisionCache,
        take: Take,
        at_work: str,
        jitter: Callable[[], float],
    ) -> None:
        self._address = address
        self._settings = settings
        self._terms = terms
        self._cache = cache
        self._take = take
        self._jitter = jitter
        self.at_work = at_work
        self._heard = _Heard()
        self.num_refused = 0
        self._refused: dict[str, None] = {}
        self._taking: asyncio.Task[None] | None = None
        self._taken_id = ""
        self._complaint = ""

    async def run(self) -> None:
        """For ever."""
        async with connect(self._address, self._settings) as channel:
            stub = trainer_pb2_grpc.TrainerStub(channel)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch(stub))
                group.create_task(self._work(stub))

    # What the trainer says.

    async def _watch(self, stub: trainer_pb2_grpc.TrainerStub) -> None:
        failures = 0
        while True:
            try:
                async for response in stub.WatchRevisions(trainer_pb2.WatchRevisionsRequest(drafter=self._terms.line)):
                    failures, self._complaint = 0, ""
                    if self._hear(response.revision):
                        break  # a new watch begins with the newest that is left
                else:
                    failures += 1
            except grpc.aio.AioRpcError as error:
                failures += 1
                self._complain(error)
            await asyncio.sleep(self._pause_s(failures))

    def _hear(self, revision: trainer_pb2.Revision) -> bool:
        """Whether it was a withdrawal of what is at work or was to be."""
        heard, name = self._heard, revision.revision_id
        if not revision.withdrawn:
            heard.wanted = revision
            heard.news.set()
            return False
        heard.withdrawn.add(name)
        if self._taking is not None and self._taken_id == name:
            self._taking.cancel()
        if heard.wanted is not None and heard.wanted.revision_id == name:
            heard.wanted = None
            return True
        return name == self.at_work

    def _complain(self, error: grpc.aio.AioRpcError) -> None:
        refusal = from_rpc_error(error)
        why = refusal.message if refusal else error.code().name
        if why != self._complaint:
            log.warning("no word from the trainer; drafting goes on", trainer=self._address, why=why)
        self._complaint = why

    def _pause_s(self, failures: int) -> float:
        pause_s: float = min(FIRST_PAUSE_S * 2.0 ** min(failures, 16), MAX_PAUSE_S)
        return pause_s * (0.5 + 0.5 * self._jitter()) if failures else 0.0

    # What is done about it.

    async def _work(self, stub: trainer_pb2_grpc.TrainerStub) -> None:
        failures = 0
        while True:
            await self._heard.news.wait()
            self._heard.news.clear()
            message = self._heard.wanted
            if message is None or message.revision_id in (self.at_work, *self._refused):
                continue
            try:
                await self._follow(stub, message)
                failures = 0
            except (grpc.aio.AioRpcError, TimeoutError, OSError) as error:
                failures += 1
                why = str(error.code().name if isinstance(error, grpc.aio.AioRpcError) else error or "silence")
                log.warning("revision not fetched; it is tried again", revision=message.revision_id, why=why)
                await asyncio.sleep(self._pause_s(failures))
                self._heard.news.set()

    async def _follow(self, stub: trainer_pb2_grpc.TrainerStub, message: trainer_pb2.Revision) -> None:
        name, cached = message.revision_id, None
        try:
            check_announced(message, self._terms)
            cached = await asyncio.to_thread(self._cache.open, name)
            revision = cached or await fetch(stub, message, self._cache)
            if name not in self._heard.withdrawn:
                await self._put_to_work(Proposal(revision, self.at_work in self._heard.withdrawn))
        except asyncio.CancelledError:
            if name not in self._heard.withdrawn or _is_being_cancelled():
                raise
            log.info("revision withdrawn before it was at work", revision=name)
        except Unfit as error:
            self._refuse(name, str(error))
            await self._withdraw(stub, name, str(error))
        except (PacelineError, StartupError) as error:
            damaged = isinstance(error, PacelineError) and error.reason is Reason.HASH_MISMATCH
            if damaged:
                await asyncio.to_thread(self._cache.drop, name)
            if damaged and cached is not None:
                self._heard.news.set()  # what lay here for long may be damaged, what comes now is not
            else:
                self._refuse(name, error.message if isinstance(error, PacelineError) else str(error))
        except (grpc.aio.AioRpcError, TimeoutError, OSError):
            raise
        except Exception as error:  # out of memory, say: what is at work must not suffer from what may come
            log.exception("revision can't be put to work", revision=name)
            self._refuse(name, type(error).__name__)

    async def _put_to_work(self, proposal: Proposal) -> None:
        name = proposal.revision.revision_id
        self._taken_id, self._taking = name, asyncio.ensure_future(self._take(proposal))
        try:
            await self._taking
        finally:
            self._taking = None
        self.at_work = name
        log.info("revision at work", revision=name, line=self._terms.line)
        await asyncio.to_thread(self._cache.prune)

    def _refuse(self, name: str, why: str) -> None:
        log.error("revision refused; the one before goes on", revision=name, line=self._terms.line, why=why)
        self._refused[name] = None
        self.num_refused += 1
        if len(self._refused) > MAX_REFUSED:
            del self._refused[next(iter(self._refused))]

    async def _withdraw(self, stub: trainer_pb2_grpc.TrainerStub, name: str, why: str) -> None:
        """Once, and again as long as the trainer is away."""
        request = trainer_pb2.WithdrawRevisionRequest(revision_id=name, reason=why)
        failures = 0
        while name not in self._heard.withdrawn:
            try:
                await stub.WithdrawRevision(request, timeout=SILENCE_S)
                return
            except grpc.aio.AioRpcError as error:
                refusal = from_rpc_error(error)
                if refusal is not None and refusal.retry_after_s is None:
                    log.error("the trainer does not withdraw a revision", revision=name, why=refusal.message)
                    return
            failures += 1
            await asyncio.sleep(self._pause_s(failures))


async def fetch(stub: trainer_pb2_grpc.TrainerStub, message: trainer_pb2.Revision, cache: RevisionCache) -> Revision:
    """A revision's files, every byte checked. Raises PacelineError, TimeoutError, AioRpcError or OSError."""
    arrival = await asyncio.to_thread(cache.receive, message)
    call = stub.FetchRevision(trainer_pb2.FetchRevisionRequest(revision_id=message.revision_id))
    try:
        responses = aiter(call)
        while True:
            async with asyncio.timeout(SILENCE_S):
                response = await anext(responses, None)
            if response is None:
                return await asyncio.to_thread(arrival.place)
            await asyncio.to_thread(arrival.write, response.chunk)
    finally:
        call.cancel()
        await asyncio.shield(asyncio.to_thread(arrival.discard))


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def first_revision(make: Callable[[Take], Follower]) -> Revision:
    """Waits until there is one to begin with. `make`: a follower with this `take`."""
    found: asyncio.Future[Revision] = asyncio.get_running_loop().create_future()

    async def take(proposal: Proposal) -> None:
        if not found.done():
            found.set_result(proposal.revision)

    following = asyncio.create_task(make(take).run())
    try:
        both: list[asyncio.Future[Any]] = [found, following]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not found.done():
            following.result()  # raises why: else a follower goes on for ever
        return found.result()
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
