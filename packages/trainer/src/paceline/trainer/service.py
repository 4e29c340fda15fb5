"""The Trainer service: check, call, map, reply. Files are read and written in threads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import grpc
import structlog

from paceline.trainer.convert import lessons_from_proto
from paceline.trainer.replay import ReplayBuffer
from paceline.trainer.revisions import Incoming, RevisionStore, StoredRevision
from paceline.trainer.watchers import Watchers
from paceline.v1 import trainer_pb2, trainer_pb2_grpc
from paceline.wire.errors import PacelineError, Reason, out_of_range

log = structlog.get_logger()

DEFAULT_PAGE = 100
MAX_PAGE = 1000


class TrainerService(trainer_pb2_grpc.TrainerServicer):
    """See trainer.proto."""

    def __init__(self, replay: ReplayBuffer, revisions: RevisionStore, clock: Callable[[], float] = time.time) -> None:
        self.watchers = Watchers()
        self._replay = replay
        self._revisions = revisions
        self._clock = clock

    async def Submit(
        self, request: trainer_pb2.SubmitRequest, context: grpc.aio.ServicerContext
    ) -> trainer_pb2.SubmitResponse:
        lessons = lessons_from_proto(request)
        try:
            stored = await asyncio.to_thread(self._replay.add, lessons, self._clock())
        except OSError as error:
            raise _storage_full(error) from error
        return trainer_pb2.SubmitResponse(stored=stored, duplicates=len(lessons) - stored)

    async def GetReplay(
        self, request: trainer_pb2.GetReplayRequest, context: grpc.aio.ServicerContext
    ) -> trainer_pb2.GetReplayResponse:
        statistics = await asyncio.to_thread(self._replay.statistics)
        return trainer_pb2.GetReplayResponse(
            lessons=statistics.lessons,
            tokens=statistics.tokens,
            bytes=statistics.num_bytes,
            max_bytes=statistics.max_bytes,
            evicted=statistics.evicted,
        )

    async def PublishRevision(
        self,
        request_iterator: AsyncIterator[trainer_pb2.PublishRevisionRequest],
        context: grpc.aio.ServicerContext,
    ) -> trainer_pb2.PublishRevisionResponse:
        incoming: Incoming | None = None
        try:
            async for request in request_iterator:
                if request.WhichOneof("part") == "manifest":
                    if incoming is not None:
                        raise PacelineError(Reason.MALFORMED, "a second manifest came on one stream", field="manifest")
                    incoming = await asyncio.to_thread(self._revisions.receive, request.manifest)
                elif incoming is None:
                    raise PacelineError(
                        Reason.MALFORMED, "the manifest must come before the first chunk", field="manifest"
                    )
                else:
                    await asyncio.to_thread(incoming.write, request.chunk)
            if incoming is None:
                raise PacelineError(Reason.MALFORMED, "the stream had no manifest", field="manifest")
            stored = await asyncio.to_thread(self._revisions.publish, incoming, self._clock())
        except OSError as error:
            raise _storage_full(error) from error
        finally:
            if incoming is not None and incoming.folder.exists():
                await asyncio.to_thread(incoming.discard)
        log.info("revision published", revision=stored.revision_id, drafter=stored.revision.manifest.drafter)
        self.watchers.publish(stored)
        return trainer_pb2.PublishRevisionResponse(revision=stored.revision)

    async def ListRevisions(
        self, request: trainer_pb2.ListRevisionsRequest, context: grpc.aio.ServicerContext
    ) -> trainer_pb2.ListRevisionsResponse:
        if request.page_size > MAX_PAGE:
            raise out_of_range("page_size", request.page_size, f"at most {MAX_PAGE}")
        page, token = self._revisions.page(request.drafter, request.page_size or DEFAULT_PAGE, request.page_token)
        return trainer_pb2.ListRevisionsResponse(revisions=[item.revision for item in page], next_page_token=token)

    async def FetchRevision(
        self, request: trainer_pb2.FetchRevisionRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[trainer_pb2.FetchRevisionResponse]:
        stored = self._revisions.get(request.revision_id)
        yield trainer_pb2.FetchRevisionResponse(revision=stored.revision)
        chunks = self._revisions.read(stored)
        while chunk := await asyncio.to_thread(next, chunks, b""):
            yield trainer_pb2.FetchRevisionResponse(chunk=chunk)

    async def WatchRevisions(
        self, request: trainer_pb2.WatchRevisionsRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[trainer_pb2.WatchRevisionsResponse]:
        with self.watchers.watch(request.drafter) as later:
            newest: list[StoredRevision] = self._revisions.newest_first(request.drafter)[:1]
            for stored in newest:
                yield trainer_pb2.WatchRevisionsResponse(revision=stored.revision)
            async for stored in later:
                yield trainer_pb2.WatchRevisionsResponse(revision=stored.revision)


def _storage_full(error: OSError) -> PacelineError:
    return PacelineError(
        Reason.STORAGE_FULL,
        f"the trainer can't write to its disk ({error.strerror}); free some space, or lower --replay-max-mib",
        retry_after_s=10.0,
    )
