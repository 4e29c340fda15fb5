"""A verifier that is played by a servicer over a real socket."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc.aio

from paceline.trainer.data.target import Target
from paceline.v1 import generation_pb2, verifier_pb2, verifier_pb2_grpc
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.status import abort

Event = generation_pb2.GenerateEvent


@dataclass
class Verifier(verifier_pb2_grpc.VerifierServicer):
    """Answers with a function of prompt and seed, after a while that differs."""

    model: verifier_pb2.GetModelResponse
    events: Callable[[Any], list[Event]] = lambda request: []
    refuse_first: int = 0
    pause_s: float = 0.005
    requests: list[Any] = field(default_factory=list)
    running: int = 0
    most_running: int = 0

    async def GetModel(self, request: Any, context: Any) -> verifier_pb2.GetModelResponse:
        return self.model

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[Event]:
        self.requests.append(request)
        if len(self.requests) <= self.refuse_first:
            await abort(context, PacelineError(Reason.OVERLOADED, "queue full", retry_after_s=0.001))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        await asyncio.sleep(random.Random(request.sampling.seed).random() * self.pause_s)
        for event in self.events(request):
            yield event
        self.running -= 1


def told(target: Target, **changes: Any) -> verifier_pb2.GetModelResponse:
    fields = {"model": "tiny", "tokenizer_hash": target.tokenizer_hash, "vocab_size": target.vocab_size}
    return verifier_pb2.GetModelResponse(**{**fields, **changes})


@asynccontextmanager
async def serving(verifier: Verifier) -> AsyncIterator[str]:
    server = grpc.aio.server()
    verifier_pb2_grpc.add_VerifierServicer_to_server(verifier, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
