"""A service over a real socket, its clients, and hand-written drafters."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from tiny_models import VOCAB, make_tokenizer

from paceline.v1 import (
    drafting_pb2,
    generation_pb2,
    types_pb2,
    verifier_pb2_grpc,
)
from paceline.verifier.__main__ import Verifier
from paceline.verifier.cost import ForwardCost
from paceline.verifier.engine import Engine
from paceline.verifier.model.batch import StepPlan, StepResult
from paceline.verifier.settings import VerifierSettings
from paceline.wire.channel import connect
from paceline.wire.digest import digest_of
from paceline.wire.errors import PacelineError
from paceline.wire.settings import ClientSettings
from paceline.wire.status import from_rpc_error
from paceline.wire.tree import Anchor, DraftTree, encode_tree
from paceline.wire.version import make_peer

DEADLINE_S = 20.0
STEP_S = 0.003  # of a gated model: slow enough for a client to follow
PROMPT = tuple(make_tokenizer()("to be or not to be")["input_ids"])
HOT = types_pb2.Sampling(temperature=0.8, seed=11)
GREEDY = types_pb2.Sampling()
OFF = types_pb2.Speculation(off=True)


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not holds():
            await asyncio.sleep(0.002)


class FlatCost(ForwardCost):
    """Twenty milliseconds however many rows, for ever: what is reckoned with it can be foretold."""

    def __init__(self) -> None:
        super().__init__((1, 64), (0.02, 0.02))

    def observe(self, num_rows: int, seconds: float) -> None:
        pass


class GatedModel:
    """The engine's model, which runs a step only while the gate is open, and fails when told to."""

    def __init__(self, engine: Engine) -> None:
        self._model = engine._model
        self.pool = self._model.pool
        self.max_session_rows = self._model.max_session_rows
        self.feature_source = self._model.feature_source
        self.trim = self._model.trim
        self.gate = threading.Event()
        self.waiting = threading.Event()
        self.fails = False
        engine._model = self

    def step(self, plan: StepPlan) -> StepResult:
        if not self.gate.is_set():
            self.waiting.set()
            assert self.gate.wait(DEADLINE_S)
            self.waiting.clear()
        time.sleep(STEP_S)
        if self.fails:
            raise RuntimeError("out of memory, or so")
        return self._model.step(plan)


@dataclass
class Answer:
    ids: list[int] = field(default_factory=list)
    text: str = ""
    sources: list[str] = field(default_factory=list)
    started: generation_pb2.Started | None = None
    finished: generation_pb2.Finished | None = None
    outcomes: list[generation_pb2.Outcome] = field(default_factory=list)
    log_probs: list[generation_pb2.TokenLogProbs] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    steps: list[tuple[generation_pb2.Step, generation_pb2.Tokens]] = field(default_factory=list)
    _step: generation_pb2.Step | None = None

    def take(self, event: generation_pb2.GenerateEvent) -> None:
        kind = event.WhichOneof("event")
        if kind == "tokens":
            self.ids += event.tokens.ids
            self.text += event.tokens.text
            self.log_probs += event.tokens.log_probs
            assert len(event.tokens.log_probs) in (0, len(event.tokens.ids))
            assert len(event.tokens.pieces) in (0, len(event.tokens.ids))
            self.pieces += event.tokens.pieces
            if self._step is not None:
                self.steps.append((self._step, event.tokens))
                self._step = None
            names = ["", *event.tokens.source_names]
            self.sources += [names[index] for index in event.tokens.sources]
        elif kind == "step":
            assert self._step is None
            self._step = event.step
        elif kind == "outcome":
            self.outcomes.append(event.outcome)
        else:
            setattr(self, kind, getattr(event, kind))

    @property
    def end(self) -> tuple[int, str]:
        return self.finished.reason, self.finished.stop_string


class Running:
    """A call that is being answered."""

    def __init__(self, call: Any) -> None:
        self.answer = Answer()
        self.cancel = call.cancel
        self._events = aiter(call)

    async def until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self.answer.take(await anext(self._events))

    async def started(self) -> Running:
        await self.until(lambda: self.answer.started is not None)
        return self

    async def rest(self) -> Answer:
        async for event in self._events:
            self.answer.take(event)
        return self.answer


class Client:
    """A running verifier and its stub."""

    def __init__(self, verifier: Verifier, channel: grpc.aio.Channel) -> None:
        self.verifier = verifier
        self.channel = channel
        self.stub = verifier_pb2_grpc.VerifierStub(channel)

    @property
    def engine(self) -> Engine:
        return self.verifier.state.loaded.engine

    def begin(self, **fields: Any) -> Running:
        return Running(self.call(**fields))

    def call(self, max_tokens: int = 24, ignore_eos: bool = True, stop: tuple[str, ...] = (), **fields: Any) -> Any:
        if not fields.keys() & {"text", "messages", "token_ids"}:
            fields["token_ids"] = types_pb2.TokenIds(ids=PROMPT)
        if "committed" in fields:
            fields["committed"] = types_pb2.TokenIds(ids=fields["committed"])
        fields.setdefault("sampling", GREEDY)
        limits = types_pb2.Limits(max_tokens=max_tokens, ignore_eos=ignore_eos, stop=stop)
        return self.stub.Generate(generation_pb2.GenerateRequest(limits=limits, **fields), timeout=DEADLINE_S)

    async def generate(self, **fields: Any) -> Answer:
        return await self.begin(**fields).rest()

    async def refusal(self, **fields: Any) -> tuple[grpc.StatusCode, PacelineError]:
        return await refused(self.generate(**fields))


async def refused(call: Any) -> tuple[grpc.StatusCode, PacelineError]:
    """How a call failed."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = from_rpc_error(caught.value)
    assert error is not None
    return caught.value.code(), error


@asynccontextmanager
async def running(folder: Path, **settings: Any) -> AsyncIterator[Client]:
    settings = {"model": str(folder), "model_name": "tiny", "device": "cpu", "drafting": "always", **settings}
    verifier = Verifier(VerifierSettings(drain_s=0.0, listen="127.0.0.1:0", **settings))
    address = await verifier.server.bind()
    try:
        await verifier.start()
        verifier.state.loaded.engine.times.cost = FlatCost()
        await verifier.server.set_ready(True)
        async with connect(address, ClientSettings()) as channel:
            yield Client(verifier, channel)
    finally:
        await verifier.server.grpc.stop(None)
        await verifier.close()


Propose = Callable[[int, list[int]], list[drafting_pb2.DraftTree]]


class Drafter:
    """The other end of a Draft stream: keeps each session's context and answers with what `propose` makes of it."""

    def __init__(self, propose: Propose, **hello: Any) -> None:
        self._propose = propose
        self.hello = {"peer": make_peer("test", "0"), "drafter_id": "d1", "name": "test", "strategies": ["s"], **hello}
        self.outgoing: asyncio.Queue[drafting_pb2.DrafterMessage | None] = asyncio.Queue()
        self.welcome: drafting_pb2.Welcome | None = None
        self.sessions: dict[int, list[int]] = {}
        self.opened: list[drafting_pb2.SessionOpened] = []
        self.commits: list[drafting_pb2.Commit] = []
        self.num_closed = 0
        self.refusals: list[drafting_pb2.Refusal] = []
        self.pongs: list[int] = []
        self.ended: asyncio.Task[None] | None = None

    async def connect(self, client: Client) -> None:
        self.outgoing.put_nowait(drafting_pb2.DrafterMessage(hello=drafting_pb2.Hello(**self.hello)))
        stream = client.stub.Draft(self._requests())
        self.ended = asyncio.create_task(self._read(stream))
        await eventually(lambda: self.welcome is not None or self.ended.done())
        if self.ended.done():
            await self.ended
        await eventually(lambda: self.hello["drafter_id"] in client.verifier.state.hub.links)

    async def _requests(self) -> AsyncIterator[drafting_pb2.DrafterMessage]:
        while (message := await self.outgoing.get()) is not None:
            yield message

    async def _read(self, stream: Any) -> None:
        async for message in stream:
            kind = message.WhichOneof("message")
            body = getattr(message, kind)
            if kind == "welcome":
                self.welcome = body
            elif kind == "refusal":
                self.refusals.append(body)
            elif kind == "pong":
                self.pongs.append(body.nonce)
            elif kind == "closed":
                del self.sessions[body.session_id]
                self.num_closed += 1
            else:
                self._advance(kind, body)

    def _advance(self, kind: str, body: Any) -> None:
        if kind == "opened":
            self.opened.append(body)
            self.sessions[body.session_id] = list(body.tokens)
        else:
            self.commits.append(body)
            self.sessions[body.session_id] += body.tokens
            assert len(self.sessions[body.session_id]) == body.length
        context = self.sessions[body.session_id]
        assert digest_of(context) == body.digest
        for tree in self._propose(body.session_id, context):
            self.outgoing.put_nowait(drafting_pb2.DrafterMessage(draft=tree))

    def ping(self, nonce: int) -> None:
        self.outgoing.put_nowait(drafting_pb2.DrafterMessage(ping=drafting_pb2.Ping(nonce=nonce)))

    async def leave(self) -> None:
        self.outgoing.put_nowait(drafting_pb2.DrafterMessage(goodbye=drafting_pb2.Goodbye()))
        async with asyncio.timeout(DEADLINE_S):
            await self.ended


def chain(session_id: int, context: list[int], tokens: list[int], claim: float = -0.05) -> drafting_pb2.DraftTree:
    tree = DraftTree(tuple(tokens), tuple(range(-1, len(tokens) - 1)), (claim,) * len(tokens), (0,) * len(tokens))
    return encode_tree(Anchor(session_id, len(context), digest_of(context)), tree, final=True)


def knows(answer: list[int], prompt: tuple[int, ...] = PROMPT) -> Propose:
    """Proposes the right continuation."""
    whole = [*prompt, *answer]

    def propose(session_id: int, context: list[int]) -> list[drafting_pb2.DraftTree]:
        return [chain(session_id, context, whole[len(context) : len(context) + 48])]

    return propose


def talks_garbage(seed: int) -> Propose:
    """Bushy trees of random tokens, claimed as near certain."""
    rng = random.Random(seed)

    def propose(session_id: int, context: list[int]) -> list[drafting_pb2.DraftTree]:
        tokens = tuple(rng.randrange(VOCAB) for _ in range(40))
        parents = tuple(rng.randrange(-1, node) for node in range(40))
        tree = DraftTree(tokens, parents, tuple(-rng.random() for _ in tokens), (0,) * 40)
        return [encode_tree(Anchor(session_id, len(context), digest_of(context)), tree, final=True)]

    return propose


def silent(_session_id: int, _context: list[int]) -> list[drafting_pb2.DraftTree]:
    return []
