"""Lessons for the trainer: what the target said, and what drafters had proposed. Never on the step's path.

Lessons are gathered per session and sent in the background; when the trainer is slow or away, the newest are dropped
and counted, because serving must not wait for learning.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc
import structlog

from paceline.v1 import trainer_pb2, trainer_pb2_grpc
from paceline.verifier.model.batch import SessionResult
from paceline.verifier.session import Session
from paceline.verifier.trie import Candidate
from paceline.wire.channel import connect
from paceline.wire.settings import ClientSettings

log = structlog.get_logger()

LESSON_TOKENS = 256
MAX_CONTEXT = 1024
MAX_WAITING = 256
MAX_BATCH = 16
SUBMIT_TIMEOUT_S = 10.0


@dataclass(slots=True)
class _Stretch:
    start: int
    drafter_ids: set[str] = field(default_factory=set)
    accepted: list[bool] = field(default_factory=list)
    top_ids: list[int] = field(default_factory=list)
    top_log_probs: list[float] = field(default_factory=list)


class Lessons:
    """Gathers lessons and submits them.

    Args:
        model, tokenizer_hash: of the target.
        top_k: of the target's best tokens per position.
        settings: how to dial the trainer.
        find_trainer: host:port of the trainer now, "" for none; asked anew each time.
        distrusted: whether a drafter, by its id, is in quarantine now. A stretch that it had a part in is no lesson:
            what was accepted there says nothing about drafters that behave.
        weights_hash: of the target, too.
    """

    def __init__(
        self,
        model: str,
        tokenizer_hash: str,
        top_k: int,
        settings: ClientSettings,
        find_trainer: Callable[[], str],
        distrusted: Callable[[str], bool] = lambda _drafter_id: False,
        weights_hash: str = "",
    ) -> None:
        self.top_k = top_k
        self.num_submitted = 0
        self.num_dropped = 0
        self.num_distrusted = 0
        self._model = model
        self._tokenizer_hash = tokenizer_hash
        self._weights_hash = weights_hash
        self._settings = settings
        self._find_trainer = find_trainer
        self._distrusted = distrusted
        self._stretches: dict[int, _Stretch] = {}
        self._waiting: asyncio.Queue[trainer_pb2.Lesson] = asyncio.Queue(MAX_WAITING)
        self._task: asyncio.Task[None] | None = None
        self._channels: dict[str, grpc.aio.Channel] = {}

    @property
    def active(self) -> bool:
        """Whether anybody wants lessons; gathering them costs a little in each step."""
        return bool(self._find_trainer())

    def observe(
        self, session: Session, result: SessionResult, taken: tuple[int, ...], candidates: list[Candidate]
    ) -> None:
        """A step's tokens. `taken` may be fewer than the result's, when the answer ended."""
        if not session.request.teaches or result.top is None:
            return
        start = session.length - len(taken)
        stretch = self._stretches.get(session.session_id)
        if stretch is not None and stretch.start + len(stretch.accepted) != start:
            self._close(session)  # steps in between were not observed: there was no trainer then
            stretch = None
        if stretch is None:
            stretch = self._stretches[session.session_id] = _Stretch(start)
        for candidate in candidates:
            stretch.drafter_ids.update(source.drafter_id for source in candidate.node.proposals)
        rows = [0, *(node + 1 for node in result.accepted)]
        for index in range(len(taken)):
            stretch.accepted.append(index < len(result.accepted))
            stretch.top_ids.extend(result.top.ids[rows[index]][: self.top_k])
            stretch.top_log_probs.extend(result.top.log_probs[index][: self.top_k])
        if session.finish is not None or len(stretch.accepted) >= LESSON_TOKENS:
            self._close(session)

    def forget(self, session: Session) -> None:
        """The session was cancelled; what was gathered of it goes."""
        self._stretches.pop(session.session_id, None)

    def _close(self, session: Session) -> None:
        stretch = self._stretches.pop(session.session_id)
        if any(map(self._distrusted, stretch.drafter_ids)):
            self.num_distrusted += 1
            return
        lesson = trainer_pb2.Lesson(
            lesson_id=secrets.token_bytes(16),
            model=self._model,
            tokenizer_hash=self._tokenizer_hash,
            weights_hash=self._weights_hash,
            tenant=session.request.tenant,
            context=session.tokens[max(0, stretch.start - MAX_CONTEXT) : stretch.start],
            tokens=session.tokens[stretch.start : stretch.start + len(stretch.accepted)],
            accepted=stretch.accepted,
            top_k=self.top_k,
            top_k_ids=stretch.top_ids,
            top_k_log_probs=[min(0.0, value) for value in stretch.top_log_probs],
            temperature=session.request.sampling.temperature,
            drafter_ids=sorted(stretch.drafter_ids),
        )
        try:
            self._waiting.put_nowait(lesson)
        except asyncio.QueueFull:
            self._drop(1, "the trainer is slower than lessons come")

    def _drop(self, count: int, why: str) -> None:
        if self.num_dropped == 0:
            log.warning("lessons dropped", why=why)
        self.num_dropped += count

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="lessons")

    async def stop(self) -> None:
        """Gives what waits a moment to go out."""
        if self._task is not None:
            try:
                await asyncio.wait_for(self._waiting.join(), 2.0)
            except TimeoutError:
                self._drop(self._waiting.qsize(), "the verifier stopped")
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for channel in self._channels.values():
            await channel.close(None)

    async def _run(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < MAX_BATCH and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            try:
                await self._submit(batch)
            finally:
                for _ in batch:
                    self._waiting.task_done()

    async def _submit(self, batch: list[trainer_pb2.Lesson]) -> None:
        address = self._find_trainer()
        if not address:
            self._drop(len(batch), "the trainer left")
            return
        if address not in self._channels:
            self._channels[address] = connect(address, self._settings)
        trainer = trainer_pb2_grpc.TrainerStub(self._channels[address])
        try:
            await trainer.Submit(trainer_pb2.SubmitRequest(lessons=batch), timeout=SUBMIT_TIMEOUT_S)
            self.num_submitted += len(batch)
        except grpc.aio.AioRpcError as error:
            self._drop(len(batch), f"trainer {address}: {error.code().name}")
