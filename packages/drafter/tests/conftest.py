"""A verifier as far as a drafter can see: a real server, and a script for what it says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
import hypothesis
import pytest

from paceline.v1 import drafting_pb2, types_pb2, verifier_pb2_grpc
from paceline.wire.digest import digest_of
from paceline.wire.errors import PacelineError
from paceline.wire.status import abort
from paceline.wire.version import make_peer

# Machines differ in speed: no example fails for being slow.
hypothesis.settings.register_profile("paceline", deadline=None)
hypothesis.settings.load_profile("paceline")

DEADLINE_S = 20.0
VOCAB = 1000


class FakeStream:
    """One drafter's stream, seen from the verifier. `received` gets its messages but pings, and None at its end."""

    def __init__(self, hello: drafting_pb2.Hello) -> None:
        self.hello = hello
        self.pinged = asyncio.Event()
        self.received: asyncio.Queue[drafting_pb2.DrafterMessage | None] = asyncio.Queue()
        self.to_send: asyncio.Queue[drafting_pb2.VerifierMessage | None] = asyncio.Queue()
        self.texts: dict[int, list[int]] = {}

    def send(self, **message: Any) -> None:
        self.to_send.put_nowait(drafting_pb2.VerifierMessage(**message))

    def open(self, session_id: int, tokens: list[int], **fields: Any) -> None:
        self.texts[session_id] = list(tokens)
        fields.setdefault("digest", digest_of(tokens))
        self.send(opened=drafting_pb2.SessionOpened(session_id=session_id, tokens=tokens, max_nodes=16, **fields))

    def commit(self, session_id: int, tokens: list[int], **fields: Any) -> None:
        text = self.texts[session_id]
        text += tokens
        message = drafting_pb2.Commit(
            session_id=session_id, tokens=tokens, length=len(text), digest=digest_of(text), **fields
        )
        self.send(commit=message)

    async def next(self) -> drafting_pb2.DrafterMessage | None:
        async with asyncio.timeout(DEADLINE_S):
            return await self.received.get()

    async def draft(self) -> drafting_pb2.DraftTree:
        """The next message, which must be a draft, of the right form for its session as it is now."""
        message = await self.next()
        assert message is not None
        assert message.WhichOneof("message") == "draft"
        draft = message.draft
        assert draft.final
        return draft

    def is_current(self, draft: drafting_pb2.DraftTree) -> bool:
        text = self.texts[draft.anchor.session_id]
        return (draft.anchor.length, draft.anchor.digest) == (len(text), digest_of(text))


@dataclass
class FakeVerifier(verifier_pb2_grpc.VerifierServicer):
    """`streams` gets each stream once it has been welcomed; `refusals` answer the first ones."""

    peer: types_pb2.Peer = field(default_factory=lambda: make_peer("fake-verifier", "0"))
    refusals: list[PacelineError] = field(default_factory=list)
    welcome: bool = True
    num_attempts: int = 0
    hidden_size: int = 0  # of the features that it sends, if above 0
    address: str = "127.0.0.1:0"
    tokenizer_hash: str = "h"
    vocab_size: int = VOCAB

    def __post_init__(self) -> None:
        self.streams: asyncio.Queue[FakeStream] = asyncio.Queue()

    async def Draft(self, requests: Any, context: Any) -> AsyncIterator[drafting_pb2.VerifierMessage]:
        self.num_attempts += 1
        stream = FakeStream((await anext(aiter(requests))).hello)
        if self.refusals:
            await abort(context, self.refusals.pop(0))
        if not self.welcome:
            return
        yield drafting_pb2.VerifierMessage(
            welcome=drafting_pb2.Welcome(
                peer=self.peer,
                verifier_id="fake",
                model="tiny",
                tokenizer_hash=self.tokenizer_hash,
                vocab_size=self.vocab_size,
                max_tree_nodes=64,
                max_tree_depth=8,
                commit_top_k=stream.hello.commit_top_k,
                feature_layers=stream.hello.feature_layers if self.hidden_size else (),
                hidden_size=self.hidden_size,
            )
        )
        self.streams.put_nowait(stream)
        receiving = asyncio.create_task(self._receive(requests, stream))
        try:
            while (message := await stream.to_send.get()) is not None:
                yield message
        finally:
            receiving.cancel()

    async def _receive(self, requests: Any, stream: FakeStream) -> None:
        async for message in requests:
            if message.WhichOneof("message") == "ping":
                stream.pinged.set()
                stream.send(pong=drafting_pb2.Pong(nonce=message.ping.nonce))
            else:
                stream.received.put_nowait(message)
        stream.received.put_nowait(None)
        stream.to_send.put_nowait(None)

    async def stream(self) -> FakeStream:
        async with asyncio.timeout(DEADLINE_S):
            return await self.streams.get()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Listens; the second time at the same address, like a server that has been restarted."""
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        verifier_pb2_grpc.add_VerifierServicer_to_server(self, server)
        port = server.add_insecure_port(self.address)
        self.address = f"127.0.0.1:{port}"
        await server.start()
        try:
            yield
        finally:
            await server.stop(None)


@pytest.fixture
async def start_verifier() -> AsyncIterator[Callable[..., Any]]:
    async with AsyncExitStack() as stack:

        async def start(**fields: Any) -> FakeVerifier:
            verifier = FakeVerifier(**fields)
            await stack.enter_async_context(verifier.serving())
            return verifier

        yield start


@pytest.fixture
def make_verifier() -> type[FakeVerifier]:
    """For tests that start and stop it themselves."""
    return FakeVerifier


async def _eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not holds():
            await asyncio.sleep(0.005)


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], Any]:
    """Waits until a condition holds, up to a deadline."""
    return _eventually
