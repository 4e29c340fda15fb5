"""A verifier answers prompts, many at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import grpc
import grpc.aio
import numpy as np
import structlog

from paceline.trainer.data.answering import Asking, Question, answer_origin, questions
from paceline.trainer.data.progress import WorkBar
from paceline.trainer.data.prompts import Prompt
from paceline.trainer.data.rows import ANSWERS, Answer, Finish
from paceline.trainer.data.shards import Shards, ShardWriter
from paceline.trainer.data.target import Target
from paceline.trainer.version import VERSION
from paceline.v1 import generation_pb2, types_pb2, verifier_pb2, verifier_pb2_grpc
from paceline.wire.channel import connect
from paceline.wire.errors import PacelineError, Reason, out_of_range
from paceline.wire.settings import ClientSettings, StartupError
from paceline.wire.status import from_rpc_error
from paceline.wire.version import make_peer

T = TypeVar("T")
U = TypeVar("U")

log = structlog.get_logger()

CALL_TIMEOUT_S = 30.0
MAX_AT_ONCE = 1024
AHEAD = 4  # answers that wait for a slow one before them, for each that is asked for at once
FIRST_WAIT_S = 1.0
TRIES = 6  # of a question that the verifier can't take just now, each after twice the wait
PASSING = {Reason.OVERLOADED, Reason.LOADING, Reason.DRAINING, Reason.NO_VERIFIER, Reason.VERIFIER_LOST}
FINISHES: dict[int, Finish] = {
    generation_pb2.FINISH_REASON_STOP: "stop",
    generation_pb2.FINISH_REASON_LENGTH: "length",
}


async def ask_all(
    target: Target,
    prompts: Sequence[Prompt],
    out: Path,
    asking: Asking,
    address: str,
    client: ClientSettings,
    at_once: int = 16,
    model: str = "",
) -> Shards[Answer]:
    """Has the verifier at `address` answer every prompt that hasn't been answered into `out`; again after a crash.

    Args:
        target: the verifier's, of which only the tokenizer is used.
        at_once: requests that run together; the verifier's --max-sessions is a good number.
        model: what the verifier calls its target; empty: as it does by itself.

    Raises:
        StartupError: the verifier can't be reached or hosts another target; or the folder can't be used.
        PacelineError: what the verifier refuses; what is complete stays.
    """
    asking.check(target)
    if not 1 <= at_once <= MAX_AT_ONCE:
        raise out_of_range("at_once", at_once, f"1 to {MAX_AT_ONCE}")
    model = model or target.model_name
    async with connect(address, client) as channel:
        verifier = verifier_pb2_grpc.VerifierStub(channel)
        await check_verifier(verifier, address, target, model)
        origin = answer_origin(target, model, asking)
        with ShardWriter(out, ANSWERS, origin) as writer, WorkBar("answering", len(prompts)) as bar:

            async def ask_one(question: Question) -> Answer:
                answer = await ask(verifier, question, asking, model, target.vocab_size)
                bar.advance(1, len(answer.answer_ids))
                return answer

            todo = questions(target, prompts, asking, writer.done, bar)
            await _write_all(writer, in_order(todo, ask_one, at_once), asking.rows_per_shard, bar)
    return Shards(out, ANSWERS)


async def check_verifier(
    verifier: verifier_pb2_grpc.VerifierStub, address: str, target: Target, model: str
) -> verifier_pb2.GetModelResponse:
    """What the verifier says of its target. Raises StartupError: it can't be reached, or the target is another."""
    request = verifier_pb2.GetModelRequest(peer=make_peer("paceline-trainer", VERSION))
    try:
        found = await verifier.GetModel(request, timeout=CALL_TIMEOUT_S)
    except grpc.aio.AioRpcError as error:
        refusal = from_rpc_error(error)
        raise StartupError(f"--verifier {address}: {refusal.message if refusal else error.details()}") from error
    expected = {"model": model, "tokenizer_hash": target.tokenizer_hash, "vocab_size": target.vocab_size}
    for field, value in expected.items():
        if getattr(found, field) != value:
            raise StartupError(
                f"--verifier {address}: its {field} is {getattr(found, field)!s:.80}, that of {target.name} is "
                f"{value!s:.80}; name the target that it hosts"
            )
    return found


async def ask(
    verifier: verifier_pb2_grpc.VerifierStub, question: Question, asking: Asking, model: str, vocab_size: int
) -> Answer:
    """One answer. Waits and asks again while the verifier can't take it. Raises PacelineError or StartupError."""
    request = generation_pb2.GenerateRequest(
        token_ids=types_pb2.TokenIds(ids=question.prompt_ids.tolist()),
        sampling=types_pb2.Sampling(temperature=asking.temperature, seed=question.seed),
        limits=types_pb2.Limits(max_tokens=asking.max_tokens),
        model=model,
        no_store=True,
    )
    wait_s = FIRST_WAIT_S
    for remaining in reversed(range(TRIES)):
        try:
            return await _answer(verifier, question, request, vocab_size)
        except grpc.aio.AioRpcError as error:
            refusal = from_rpc_error(error)
            passing = refusal.reason in PASSING if refusal else error.code() == grpc.StatusCode.UNAVAILABLE
            if not passing or not remaining:
                why = refusal.message if refusal else error.details()
                raise StartupError(f"--verifier: prompt {question.id}: {why}; run the same again to go on") from error
            await asyncio.sleep(max(wait_s, (refusal.retry_after_s or 0.0) if refusal else 0.0))
            wait_s *= 2
    raise AssertionError("the last try returns or raises")


async def _answer(
    verifier: verifier_pb2_grpc.VerifierStub,
    question: Question,
    request: generation_pb2.GenerateRequest,
    vocab_size: int,
) -> Answer:
    ids: list[int] = []
    finish: Finish | None = None
    async for event in verifier.Generate(request):
        ids.extend(event.tokens.ids)
        if event.HasField("finished"):
            finish = FINISHES.get(event.finished.reason)
        if len(ids) > request.limits.max_tokens or max(event.tokens.ids, default=0) >= vocab_size:
            raise _strange(question, "more tokens than asked for, or tokens that its vocabulary hasn't")
    if finish is None or not ids:
        raise _strange(question, "an answer without an end")
    return Answer(question.id, question.source, question.prompt_ids, np.array(ids, np.int32), finish)


async def in_order(items: Iterable[T], work: Callable[[T], Awaitable[U]], at_once: int) -> AsyncIterator[U]:
    """What `work` makes of each item, in the items' order, while up to `at_once` are worked on."""
    gate = asyncio.Semaphore(at_once)

    async def run(item: T) -> U:
        async with gate:
            return await work(item)

    running: deque[asyncio.Task[U]] = deque()
    try:
        for item in items:
            running.append(asyncio.create_task(run(item)))
            if len(running) >= AHEAD * at_once:
                yield await running.popleft()
        while running:
            yield await running.popleft()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _write_all(
    writer: ShardWriter[Answer], answers: AsyncIterator[Answer], rows_per_shard: int, bar: WorkBar
) -> None:
    async def write(rows: list[Answer]) -> None:
        path = await asyncio.to_thread(writer.write, rows)
        log.info("answered", shard=path.name, answers=len(rows), tokens_per_s=round(bar.tokens_per_s))

    rows: list[Answer] = []
    async for answer in answers:
        rows.append(answer)
        if len(rows) == rows_per_shard:
            await write(rows)
            rows = []
    if rows:
        await write(rows)


def _strange(question: Question, what: str) -> PacelineError:
    return PacelineError(
        Reason.MALFORMED, f"--verifier: prompt {question.id}: it sent {what}; use another verifier", field="tokens"
    )
