"""How much those who are being answered feel of a long prompt that somebody else sends."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

import grpc
from deployment import Deployment
from rounds import BenchError

from paceline.v1 import generation_pb2, router_pb2_grpc, types_pb2
from paceline.wire.status import from_rpc_error

ALONE_EVENTS = 40  # gaps of the running session by itself, to know what is usual
RUNNING_TOKENS = 2000  # more than it gets to, usually: it is cancelled when the long prompt has been read
RUNNING_PROMPT = "Write a long story about a village by a river, its bridge, and the people who cross it."


@dataclass(frozen=True, slots=True)
class Interference:
    """Gaps between two messages of a running session, before and while another's prompt is read; seconds."""

    prompt_tokens: int
    usual_s: float
    longest_s: float
    prefill_s: float

    def figures(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "usual_gap_ms": round(self.usual_s * 1e3, 2),
            "longest_gap_ms": round(self.longest_s * 1e3, 2),
            "stretch": round(self.longest_s / self.usual_s, 3),
            "prefill_s": round(self.prefill_s, 3),
        }


async def interfere(
    stub: router_pb2_grpc.RouterStub, prompt_tokens: int, deployment: Deployment, *, speculation: bool
) -> Interference:
    """Lets a session run, sends a prompt of so many tokens beside it, and looks at the session's gaps.

    Raises:
        BenchError: the prompt is refused, for example as too long.
    """
    running_tokens = min(RUNNING_TOKENS, deployment.context_length // 2)
    running = stub.Generate(_request(running_tokens, speculation, "runs", text=RUNNING_PROMPT))
    times: list[float] = []
    usual = asyncio.Event()

    async def read() -> None:
        async for event in running:
            if event.WhichOneof("event") == "tokens":
                times.append(time.perf_counter())
                if len(times) > ALONE_EVENTS:
                    usual.set()

    reading = asyncio.create_task(read())
    await asyncio.wait({reading, asyncio.create_task(usual.wait())}, return_when=asyncio.FIRST_COMPLETED)
    # Ids in a row: no text, but as much work as one, and its length is exact.
    ids = types_pb2.TokenIds(ids=[index % deployment.vocab_size for index in range(prompt_tokens)])
    started, known = time.perf_counter(), len(times)
    try:
        async for _event in stub.Generate(_request(1, speculation, "reads", token_ids=ids)):
            pass
    except grpc.aio.AioRpcError as error:
        refusal = from_rpc_error(error)
        raise BenchError(f"--long-prompt: {refusal.message if refusal else error.details()}") from error
    ended = time.perf_counter()
    last = [] if reading.done() else [ended]
    running.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    during = [moment for moment in times[known - 1 :] if moment <= ended]
    return Interference(
        prompt_tokens,
        median(_gaps(times[1:known])),
        max(_gaps([*during, *last]), default=0.0),
        ended - started,
    )


def _request(max_tokens: int, speculation: bool, tenant: str, **prompt: Any) -> generation_pb2.GenerateRequest:
    return generation_pb2.GenerateRequest(
        limits=types_pb2.Limits(max_tokens=max_tokens, ignore_eos=True),
        speculation=types_pb2.Speculation(off=not speculation),
        tenant=tenant,
        no_store=True,
        **prompt,
    )


def _gaps(times: list[float]) -> list[float]:
    return [after - before for before, after in pairwise(times)]
