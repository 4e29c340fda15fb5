"""The Trainer service: check, call, map, reply. Files are read and written in threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import structlog

from paceline.trainer.convert import lesson_batches, lessons_from_proto
from paceline.trainer.durable import storage_error
from paceline.trainer.incoming import Incoming
from paceline.trainer.manifest import check_signature
from paceline.trainer.metrics import Metrics
from paceline.trainer.replay import ReplayBuffer
from paceline.trainer.revisions import RevisionStore, StoredRevision
from paceline.trainer.segment import ID_BYTES
from paceline.trainer.watchers import Watchers
from paceline.v1 import trainer_pb2, trainer_pb2_grpc
from paceline.wire.errors import PacelineError, Reason, out_of_range
from paceline.wire.tracing import NO_SPANS, Kind, Spans, traceparent_in
from paceline.wire.upload import go_on

log = structlog.get_logger()

DEFAULT_PAGE = 100
MAX_PAGE = 1000
MAX_PUBLISHERS = 16
IDLE_S = 60.0  # a publisher that says nothing for so long gives its place to others


@dataclass(frozen=True, slots=True)
class Stores:
    """What is there once the folder has been read."""

    replay: ReplayBuffer
    revisions: RevisionStore


class TrainerService(trainer_pb2_grpc.TrainerServicer):
    """See trainer.proto. `stores` is set once they are open; `clock` tells Unix time in seconds; `metrics` count what
    comes, and `spans` tell of what is published."""

    def __init__(
        self,
        clock: Callable[[], float],
        idle_s: float = IDLE_S,
        metrics: Metrics | None = None,
        spans: Spans = NO_SPANS,
    ) -> None:
        self.metrics = metrics or Metrics()
        self._spans = spans
        self.stores: Stores | None = None
        self.watchers = Watchers()
        self._clock = clock
        self._idle_s = idle_s
        self._num_publishers = 0
        self._publishing: set[asyncio.Task[StoredRevision]] = set()

    def ready(self) -> Stores:
        """Raises LOADING until the stores are open, and DRAINING when the trainer ends."""
        if self.watchers.closed:
            raise PacelineError(Reason.DRAINING, "this trainer is shutting down; try again later", retry_after_s=1.0)
        if self.stores is None:
            raise PacelineError(Reason.LOADING, "the stores are still being read; try again soon", retry_after_s=1.0)
        return self.stores

    async def close(self) -> None:
        """Takes nothing more, and waits for what is being put in place."""
        self.watchers.close()
        await asyncio.gather(*self._publishing, return_exceptions=True)

    async def Submit(
        self, request: trainer_pb2.SubmitRequest, context: grpc.aio.ServicerContext
    ) -> trainer_pb2.SubmitResponse:
        with self._counted("Submit"), self.metrics.submit.time():
            replay = self.ready().replay
            records = await asyncio.to_thread(lessons_from_proto, request)
            stored = await replay.add(records)
        self.metrics.lessons.labels("stored").inc(stored)
        self.metrics.lessons.labels("duplicate").inc(len(records) - stored)
        return trainer_pb2.SubmitResponse(stored=stored, duplicates=len(records) - stored)

    @contextmanager
    def _counted(self, method: str) -> Iterator[None]:
        """Counts what is refused."""
        try:
            yield
        except PacelineError as error:
            self.metrics.refused.labels(method, error.reason.value).inc()
            raise

    async def GetReplay(
        self, request: trainer_pb2.GetReplayRequest, context: grpc.aio.ServicerContext
    ) -> trainer_pb2.GetReplayResponse:
        replay = self.ready().replay
        view = replay.view
        return trainer_pb2.GetReplayResponse(
            lessons=view.num_records,
            tokens=view.num_tokens,
            bytes=view.num_bytes,
            max_bytes=replay.max_bytes,
            evicted=view.num_evicted,
        )

    async def ReadLessons(
        self, request: trainer_pb2.ReadLessonsRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[trainer_pb2.ReadLessonsResponse]:
        replay = self.ready().replay
        if len(request.until_lesson_id) not in (0, ID_BYTES):
            raise out_of_range("until_lesson_id", f"{len(request.until_lesson_id)} bytes", f"0 or {ID_BYTES} bytes")
        batches = lesson_batches(replay.lessons(newest_first=True), request)
        while batch := await asyncio.to_thread(next, batches, None):
            yield trainer_pb2.ReadLessonsResponse(lessons=batch)

    async def PublishRevision(
        self,
        request_iterator: AsyncIterator[trainer_pb2.PublishRevisionRequest],
        context: grpc.aio.ServicerContext,
    ) -> trainer_pb2.PublishRevisionResponse:
        parent = traceparent_in(context.invocation_metadata()) if self._spans.on else ""
        span = self._spans.begin("publish revision", parent, kind=Kind.SERVER)
        try:
            with self._counted("PublishRevision"):
                response = await self._received_revision(request_iterator, context)
            revision = response.revision
            span.set({"paceline.revision": revision.revision_id, "paceline.line": revision.manifest.drafter})
            return response
        except PacelineError as error:
            span.end(error.reason.value)
            raise
        finally:
            span.end()

    async def _received_revision(
        self,
        request_iterator: AsyncIterator[trainer_pb2.PublishRevisionRequest],
        context: grpc.aio.ServicerContext,
    ) -> trainer_pb2.PublishRevisionResponse:
        # Read before anything is refused: a client that is still writing would not see why (wire/upload.py).
        first = await _next(request_iterator, self._idle_s)
        revisions = self.ready().revisions
        if self._num_publishers >= MAX_PUBLISHERS:
            message = f"{MAX_PUBLISHERS} revisions are being published already; try again soon"
            raise PacelineError(Reason.OVERLOADED, message, retry_after_s=1.0)
        self._num_publishers += 1
        try:
            incoming = await _begun(first, revisions)
            try:
                await go_on(context)
                await _received(request_iterator, incoming, self._idle_s)
                stored = await self._publish(revisions, incoming, first.signature if first else b"")
            finally:
                await asyncio.shield(asyncio.to_thread(incoming.discard))
        except OSError as error:
            log.error("a revision can't be stored", why=error.strerror)
            raise storage_error(error) from error
        finally:
            self._num_publishers -= 1
        return trainer_pb2.PublishRevisionResponse(revision=stored.revision)

    async def _publish(self, revisions: RevisionStore, incoming: Incoming, signature: bytes) -> StoredRevision:
        async def publish() -> StoredRevision:
            stored, is_new = await asyncio.to_thread(revisions.publish, incoming, self._clock(), signature)
            if is_new:
                self.metrics.published.inc()
                log.info("revision published", revision=stored.revision_id, drafter=stored.drafter)
                if revisions.get(stored.revision_id).in_use:  # it may have been withdrawn since
                    self.watchers.publish(stored)
            return stored

        return await self._to_its_end(publish())

    async def _to_its_end(self, change: Coroutine[Any, Any, StoredRevision]) -> StoredRevision:
        """Goes on when the caller leaves: watchers must hear of everything that readers can see."""
        task = asyncio.create_task(change)
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)
        return await asyncio.shield(task)

    async def WithdrawRevision(
        self, request: trainer_pb2.WithdrawRevisionRequest, context: grpc.aio.ServicerContext
    ) -> trainer_pb2.WithdrawRevisionResponse:
        revisions = self.ready().revisions

        async def withdraw() -> StoredRevision:
            stored, is_new = await asyncio.to_thread(revisions.withdraw, request.revision_id, request.reason)
            if is_new:
                self.metrics.withdrawn.inc()
                log.info("revision withdrawn", revision=stored.revision_id, drafter=stored.drafter, why=request.reason)
                self.watchers.withdraw(stored, revisions.newest_in_use(stored.drafter))
            return stored

        try:
            stored = await self._to_its_end(withdraw())
        except OSError as error:
            log.error("a withdrawal can't be stored", why=error.strerror)
            raise storage_error(error) from error
        return trainer_pb2.WithdrawRevisionResponse(revision=stored.revision)

    async def ListRevisions(
        self, request: trainer_pb2.ListRevisionsRequest, context: grpc.aio.ServicerContext
    ) -> trainer_pb2.ListRevisionsResponse:
        revisions = self.ready().revisions
        if request.page_size > MAX_PAGE:
            raise out_of_range("page_size", request.page_size, f"at most {MAX_PAGE}")
        page, token = revisions.page(request.drafter, request.page_size or DEFAULT_PAGE, request.page_token)
        return trainer_pb2.ListRevisionsResponse(revisions=[item.revision for item in page], next_page_token=token)

    async def FetchRevision(
        self, request: trainer_pb2.FetchRevisionRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[trainer_pb2.FetchRevisionResponse]:
        revisions = self.ready().revisions
        stored = revisions.get(request.revision_id)
        yield trainer_pb2.FetchRevisionResponse(revision=stored.revision)
        chunks = revisions.read(stored)
        while chunk := await asyncio.to_thread(next, chunks, b""):
            yield trainer_pb2.FetchRevisionResponse(chunk=chunk)

    async def WatchRevisions(
        self, request: trainer_pb2.WatchRevisionsRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[trainer_pb2.WatchRevisionsResponse]:
        revisions = self.ready().revisions
        with self.watchers.watch(request.drafter) as slot:
            newest = revisions.newest_in_use(request.drafter)
            if newest is not None:
                slot.put(newest)
            async for stored in slot:
                yield trainer_pb2.WatchRevisionsResponse(revision=stored.revision)
        self.ready()  # the watch ended because the trainer does; the watcher is told so


async def _begun(first: trainer_pb2.PublishRevisionRequest | None, revisions: RevisionStore) -> Incoming:
    """A temporary folder for what a publisher's manifest announces; none stays of a manifest that is refused."""
    if first is None or first.WhichOneof("part") != "manifest":
        raise PacelineError(Reason.MALFORMED, "the first message must be the manifest", field="manifest")
    check_signature(first.signature)
    beginning = asyncio.ensure_future(asyncio.to_thread(revisions.receive, first.manifest))
    try:
        return await asyncio.shield(beginning)
    except asyncio.CancelledError:
        (await beginning).discard()
        raise


async def _received(
    requests: AsyncIterator[trainer_pb2.PublishRevisionRequest], incoming: Incoming, idle_s: float
) -> None:
    """Writes all that a publisher sends."""
    while (request := await _next(requests, idle_s)) is not None:
        if request.WhichOneof("part") != "chunk":
            raise PacelineError(Reason.MALFORMED, "after the manifest only chunks may come", field="chunk")
        await asyncio.to_thread(incoming.write, request.chunk)


async def _next(
    requests: AsyncIterator[trainer_pb2.PublishRevisionRequest], idle_s: float
) -> trainer_pb2.PublishRevisionRequest | None:
    try:
        async with asyncio.timeout(idle_s):
            return await anext(aiter(requests), None)
    except TimeoutError as error:
        message = f"nothing came for {idle_s:g} s; publish again without such pauses"
        raise PacelineError(Reason.MALFORMED, message, field="chunk") from error
