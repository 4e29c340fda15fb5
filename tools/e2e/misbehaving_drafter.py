"""A drafter that does what it should not, for tests of what a verifier does about it.

    python tools/e2e/misbehaving_drafter.py --verifier HOST:PORT --mode garbage|malformed|late|silent

It dials, says Hello, and answers each opening and commit as its mode says. Standard output tells what
happened, one
JSON object a line: {"event": "welcome" | "sent" | "refusal" | "lost", …}. SIGTERM says Goodbye and exits with
0.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import cycle
from typing import Any

import grpc
import grpc.aio

from paceline.v1 import drafting_pb2, verifier_pb2_grpc
from paceline.wire.channel import connect
from paceline.wire.digest import extend
from paceline.wire.settings import ClientSettings
from paceline.wire.status import from_rpc_error
from paceline.wire.tree import Anchor, DraftTree, encode_tree
from paceline.wire.version import make_peer

EOF: Any = grpc.aio.EOF
REDIAL_S = 0.2
GOODBYE_S = 1.0
GARBAGE_NODES = 16

Message = drafting_pb2.DraftTree
Fault = Callable[[Message, drafting_pb2.Welcome], None]


def tell(event: str, **details: object) -> None:
    print(json.dumps({"event": event, **details}), flush=True)


def junk_tree(rng: random.Random, welcome: drafting_pb2.Welcome, max_nodes: int) -> DraftTree:
    """A tree of valid form that believes firmly in random tokens."""
    tokens: list[int] = []
    parents: list[int] = []
    depths: list[int] = []
    for node in range(min(GARBAGE_NODES, max_nodes, welcome.max_tree_nodes)):
        allowed = [parent for parent in range(node) if depths[parent] < welcome.max_tree_depth]
        parent = rng.choice([-1, *allowed])
        tokens.append(rng.randrange(welcome.vocab_size))
        parents.append(parent)
        depths.append(1 if parent < 0 else depths[parent] + 1)
    confidence = tuple(math.log(rng.uniform(0.9, 1.0)) for _ in tokens)
    return DraftTree(tuple(tokens), tuple(parents), confidence, (0,) * len(tokens))


def _replace(field: Any, values: list[Any]) -> None:
    del field[:]
    field.extend(values)


def _chain(draft: Message, num_nodes: int) -> None:
    _replace(draft.tokens, [0] * num_nodes)
    _replace(draft.parents, list(range(num_nodes)))
    _replace(draft.log_confidence, [-0.1] * num_nodes)
    _replace(draft.strategy, [0] * num_nodes)


def cyclic_parents(draft: Message, _welcome: drafting_pb2.Welcome) -> None:
    _chain(draft, 2)
    _replace(draft.parents, [2, 1])


def parent_beyond_the_tree(draft: Message, _welcome: drafting_pb2.Welcome) -> None:
    _chain(draft, 2)
    _replace(draft.parents, [0, 2**32 - 1])


def too_many_nodes(draft: Message, welcome: drafting_pb2.Welcome) -> None:
    _chain(draft, welcome.max_tree_nodes + 1)
    _replace(draft.parents, [0] * (welcome.max_tree_nodes + 1))


def too_deep(draft: Message, welcome: drafting_pb2.Welcome) -> None:
    _chain(draft, welcome.max_tree_depth + 1)


def token_out_of_vocabulary(draft: Message, welcome: drafting_pb2.Welcome) -> None:
    _chain(draft, 1)
    _replace(draft.tokens, [welcome.vocab_size])


def token_far_out_of_vocabulary(draft: Message, _welcome: drafting_pb2.Welcome) -> None:
    _chain(draft, 1)
    _replace(draft.tokens, [2**32 - 1])


def confidence_is_nan(draft: Message, _welcome: drafting_pb2.Welcome) -> None:
    _chain(draft, 1)
    _replace(draft.log_confidence, [math.nan])


def confidence_is_infinite(draft: Message, _welcome: drafting_pb2.Welcome) -> None:
    _chain(draft, 1)
    _replace(draft.log_confidence, [-math.inf])


def confidence_above_one(draft: Message, _welcome: drafting_pb2.Welcome) -> None:
    _chain(draft, 1)
    _replace(draft.log_confidence, [0.5])


def fewer_parents_than_tokens(draft: Message, _welcome: drafting_pb2.Welcome) -> None:
    _chain(draft, 3)
    del draft.parents[1:]


def unknown_strategy(draft: Message, _welcome: drafting_pb2.Welcome) -> None:
    _chain(draft, 1)
    _replace(draft.strategy, [1])


def wrong_digest(draft: Message, _welcome: drafting_pb2.Welcome) -> None:
    draft.anchor.digest ^= 1


def unknown_session(draft: Message, _welcome: drafting_pb2.Welcome) -> None:
    draft.anchor.session_id ^= 1 << 63


def length_from_the_future(draft: Message, _welcome: drafting_pb2.Welcome) -> None:
    draft.anchor.length = 2**32 - 1


FAULTS: tuple[Fault, ...] = (
    cyclic_parents,
    parent_beyond_the_tree,
    too_many_nodes,
    too_deep,
    token_out_of_vocabulary,
    token_far_out_of_vocabulary,
    confidence_is_nan,
    confidence_is_infinite,
    confidence_above_one,
    fewer_parents_than_tokens,
    unknown_strategy,
    wrong_digest,
    unknown_session,
    length_from_the_future,
)


class Misbehaver:
    """One stream of one drafter."""

    def __init__(self, arguments: argparse.Namespace, stopping: asyncio.Event) -> None:
        self._arguments = arguments
        self._stopping = stopping
        self._rng = random.Random(arguments.seed)
        self._faults: Iterator[Fault] = cycle(FAULTS)
        self._sessions: dict[int, Anchor] = {}
        self._max_nodes: dict[int, int] = {}
        self._answers: set[asyncio.Task[None]] = set()
        self._writing = asyncio.Lock()  # a second write during a first breaks a grpc.aio call

    async def converse(self, call: Any) -> None:
        """Hello, then one answer per opening and commit, until the verifier ends the stream."""
        arguments = self._arguments
        hello = drafting_pb2.Hello(
            peer=make_peer("misbehaving-drafter", "0"),
            drafter_id=arguments.drafter_id or f"{arguments.mode}-{arguments.seed}",
            name=arguments.name or arguments.mode,
            strategies=[arguments.mode],
        )
        await call.write(drafting_pb2.DrafterMessage(hello=hello))
        first = await call.read()
        if first is EOF or first.WhichOneof("message") != "welcome":
            return
        tell("welcome", verifier_id=first.welcome.verifier_id)
        leaving = asyncio.create_task(self._leave_when_told(call))
        try:
            while (message := await call.read()) is not EOF:
                self._take(message, first.welcome, call)
        finally:
            leaving.cancel()
            for answer in self._answers:
                answer.cancel()

    def _take(self, message: drafting_pb2.VerifierMessage, welcome: drafting_pb2.Welcome, call: Any) -> None:
        match message.WhichOneof("message"):
            case "opened":
                opened = message.opened
                self._max_nodes[opened.session_id] = opened.max_nodes
                self._follow(Anchor(opened.session_id, len(opened.tokens), opened.digest), welcome, call)
            case "commit":
                commit = message.commit
                before = self._sessions.get(commit.session_id)
                if before is not None:
                    digest = extend(before.digest, commit.tokens)
                    self._follow(Anchor(commit.session_id, commit.length, digest), welcome, call)
            case "closed":
                self._sessions.pop(message.closed.session_id, None)
                self._max_nodes.pop(message.closed.session_id, None)
            case "refusal":
                refusal = message.refusal
                tell("refusal", reason=refusal.reason, quarantined=refusal.quarantined, detail=refusal.detail)

    def _follow(self, anchor: Anchor, welcome: drafting_pb2.Welcome, call: Any) -> None:
        self._sessions[anchor.session_id] = anchor
        if self._arguments.mode == "silent":
            return
        answer = asyncio.create_task(self._answer(anchor, welcome, call))
        self._answers.add(answer)
        answer.add_done_callback(self._answers.discard)

    async def _answer(self, anchor: Anchor, welcome: drafting_pb2.Welcome, call: Any) -> None:
        max_nodes = self._max_nodes.get(anchor.session_id) or welcome.max_tree_nodes
        draft = encode_tree(anchor, junk_tree(self._rng, welcome, max_nodes), draft_us=1, final=True)
        fault = ""
        if self._arguments.mode == "late":
            await asyncio.sleep(self._arguments.late_s)
        elif self._arguments.mode == "malformed":
            spoil = next(self._faults)
            spoil(draft, welcome)
            fault = spoil.__name__
        if await self._write(call, drafting_pb2.DrafterMessage(draft=draft)):
            tell("sent", fault=fault)

    async def _leave_when_told(self, call: Any) -> None:
        await self._stopping.wait()
        goodbye = drafting_pb2.Goodbye(reason="stopping")
        if await self._write(call, drafting_pb2.DrafterMessage(goodbye=goodbye)):
            await call.done_writing()

    async def _write(self, call: Any, message: drafting_pb2.DrafterMessage) -> bool:
        """Whether it could be written; the read knows why not."""
        async with self._writing:
            try:
                await call.write(message)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                return False
            return True


async def misbehave(arguments: argparse.Namespace) -> None:
    """Dials again and again until told to stop."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with connect(arguments.verifier, ClientSettings()) as channel:
        stub = verifier_pb2_grpc.VerifierStub(channel)
        told = ""
        while not stopping.is_set():
            call = stub.Draft()
            conversation = asyncio.create_task(Misbehaver(arguments, stopping).converse(call))
            waiting = asyncio.create_task(stopping.wait())
            await asyncio.wait({conversation, waiting}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({conversation}, timeout=GOODBYE_S)
            if not conversation.done():
                conversation.cancel()
            why = await _why_it_ended(conversation)
            if why and why != told:
                tell("lost", why=why)
            told = why
            with suppress(TimeoutError):
                await asyncio.wait_for(waiting, REDIAL_S)


async def _why_it_ended(conversation: asyncio.Task[None]) -> str:
    """The reason that the verifier gave, else gRPC's code; empty if it just closed the stream."""
    try:
        await conversation
    except grpc.aio.AioRpcError as error:
        refusal = from_rpc_error(error)
        return refusal.reason.value if refusal else error.code().name
    except (asyncio.CancelledError, asyncio.InvalidStateError):
        return "CANCELLED"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--verifier", required=True, help="host:port to dial")
    parser.add_argument("--mode", required=True, choices=["garbage", "malformed", "late", "silent"])
    parser.add_argument("--name", default="", help="name to give in Hello; the mode by default")
    parser.add_argument("--drafter-id", default="", help="id to give in Hello; mode and seed by default")
    parser.add_argument("--late-s", type=float, default=0.5, help="seconds to wait in mode late")
    parser.add_argument("--seed", type=int, default=0, help="of the junk")
    asyncio.run(misbehave(parser.parse_args()))


if __name__ == "__main__":
    main()
