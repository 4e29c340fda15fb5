"""The Verifier service: check, call, map, reply."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import itertools
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import structlog

from paceline.v1 import drafting_pb2, generation_pb2, types_pb2, verifier_pb2, verifier_pb2_grpc
from paceline.verifier import convert
from paceline.verifier.draft_metrics import StreamMetrics
from paceline.verifier.engine import Engine
from paceline.verifier.events import event_to_proto, score_to_proto
from paceline.verifier.grammar.compiler import Compiler
from paceline.verifier.grammar.constraint import Constraint
from paceline.verifier.hub import DrafterHub
from paceline.verifier.lessons import Lessons
from paceline.verifier.link import MAX_TREE_DEPTH, MAX_TREE_NODES, DrafterInfo, DrafterLink, Verification
from paceline.verifier.model.features import FeatureSource
from paceline.verifier.model.target import Target
from paceline.verifier.request import Request
from paceline.verifier.session import FinishedEvent, SegmentEvent, Session
from paceline.verifier.settings import VerifierSettings
from paceline.verifier.shadow_book import ShadowBook
from paceline.verifier.stretch import granted
from paceline.verifier.text import TextStream
from paceline.verifier.trie import MAX_TRIE_NODES
from paceline.verifier.version import VERSION
from paceline.wire.errors import PacelineError, Reason, out_of_range
from paceline.wire.version import check_peer, make_peer

log = structlog.get_logger()

MAX_STRATEGIES = 32
MAX_COMMIT_TOP_K = 16
CHUNK_BYTES = 256 * 1024
SHADOWS_SINCE_MINOR = 4


@dataclass(frozen=True, slots=True)
class Loaded:
    """What is there once the model is."""

    target: Target
    name: str
    engine: Engine
    lessons: Lessons
    shadows: ShadowBook
    limits: convert.Limits
    compiler: Compiler


@dataclass(slots=True)
class VerifierState:
    """What the service's calls share."""

    settings: VerifierSettings
    verifier_id: str
    hub: DrafterHub = field(default_factory=DrafterHub)
    loaded: Loaded | None = None
    draining: bool = False
    by_request: dict[str, Session] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    session_ids: Iterator[int] = field(default_factory=lambda: itertools.count(secrets.randbits(32) << 24))
    memory_secret: bytes = field(default_factory=lambda: secrets.token_bytes(32))

    def ready(self) -> Loaded:
        """Raises LOADING until the model is there."""
        if self.loaded is None:
            raise PacelineError(Reason.LOADING, "the model is still being loaded; try again soon", retry_after_s=1.0)
        return self.loaded

    def memory_key(self, session: Session) -> bytes:
        """What drafters may file a session's text under: opaque, and different for each tenant."""
        if session.request.no_store:
            return b""
        return hmac.new(self.memory_secret, session.request.tenant.encode(), hashlib.sha256).digest()[:16]

    def drafter_names(self) -> dict[str, str]:
        return {drafter_id: link.info.name for drafter_id, link in self.hub.links.items()}


class VerifierService(verifier_pb2_grpc.VerifierServicer):
    """See verifier.proto."""

    def __init__(self, state: VerifierState) -> None:
        self._state = state

    async def Generate(
        self, request: generation_pb2.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[generation_pb2.GenerateEvent]:
        state, loaded = self._state, self._state.ready()
        if state.draining:
            raise PacelineError(Reason.DRAINING, "this verifier is shutting down; use another", retry_after_s=1.0)
        if request.model and request.model != loaded.name:
            raise PacelineError(
                Reason.UNKNOWN_MODEL,
                f"model is {request.model!r}; this verifier hosts {loaded.name!r}",
                field="model",
                value=request.model,
                limit=loaded.name,
            )
        tokenizer = loaded.target.tokenizer
        checked = await asyncio.to_thread(
            convert.request_from_proto, request, loaded.limits, tokenizer.tokenize, tokenizer.apply_chat_template
        )
        state.hub.check(checked.speculation)
        constraint = None
        if checked.json_schema is not None:
            constraint = await loaded.compiler.constraint(checked.json_schema, checked.committed)
        session = await asyncio.to_thread(self._new_session, checked, constraint)
        if checked.request_id in state.by_request:
            raise PacelineError(
                Reason.DUPLICATE_REQUEST,
                f"request_id {checked.request_id!r} is running already; choose another, or leave it unset",
                field="request_id",
                value=checked.request_id,
            )
        state.by_request[checked.request_id] = session
        names: dict[str, str] = {}
        try:
            loaded.engine.submit(session)
            yield self._started(session, loaded)
            while True:
                event = await session.events.get()
                names.update(state.drafter_names())
                told = event_to_proto(event, names, len(checked.prompt), loaded.target.tokenizer.piece)
                if isinstance(event, SegmentEvent) and session.speculation.shadow:
                    told.outcome.shadows.extend(map(score_to_proto, loaded.shadows.take(checked.tenant)))
                yield told
                if isinstance(event, FinishedEvent):
                    return
        finally:
            del state.by_request[checked.request_id]
            loaded.engine.cancel(session)
            loaded.lessons.forget(session)
            loaded.shadows.forget(session)

    def _new_session(self, request: Request, constraint: Constraint | None) -> Session:
        loaded = self._state.ready()
        if request.log_probs is not None or request.steps is not None:
            _ = loaded.target.tokenizer.pieces  # read here, in a thread, not when the first event goes out
        text = TextStream(loaded.target.tokenizer.tokenizer, request.prompt, request.stop)
        eos_token_ids = loaded.target.eos_token_ids
        return Session(next(self._state.session_ids), request, text, eos_token_ids, MAX_TRIE_NODES, constraint)

    def _started(self, session: Session, loaded: Loaded) -> generation_pb2.GenerateEvent:
        return generation_pb2.GenerateEvent(
            started=generation_pb2.Started(
                request_id=session.request.request_id,
                verifier_id=self._state.verifier_id,
                model=loaded.name,
                seed=session.request.sampling.seed,
                prompt_tokens=len(session.request.prompt),
            )
        )

    async def Engage(
        self, request: verifier_pb2.EngageRequest, context: grpc.aio.ServicerContext
    ) -> verifier_pb2.EngageResponse:
        loaded = self._state.ready()
        session = self._state.by_request.get(request.request_id)
        if session is None:
            raise PacelineError(
                Reason.UNKNOWN_REQUEST,
                f"request_id {request.request_id[:80]!r} is not running here",
                field="request_id",
                value=request.request_id,
            )
        speculation = convert.speculation_from_proto(request.speculation, loaded.limits.max_nodes)
        self._state.hub.check(speculation)
        session.speculation = speculation
        if session.slot is not None and session.finish is None:
            self._state.hub.engage(session)
        return verifier_pb2.EngageResponse()

    async def Draft(
        self, request_iterator: AsyncIterator[drafting_pb2.DrafterMessage], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[drafting_pb2.VerifierMessage]:
        # Read before anything is refused: a client that is still writing would not see why (wire/server.py).
        hello = await anext(aiter(request_iterator), None)
        loaded = self._state.ready()
        info = _checked_hello(hello, loaded.engine.feature_source, self._state.settings.max_message_bytes)
        standing = self._state.hub.standings.of(info.drafter_id)
        link = DrafterLink(info, standing, self._verification(loaded))
        yield self._welcome(info, loaded)
        self._state.hub.connect(link)
        self._state.changed.set()
        for session in loaded.engine.sessions():
            self._state.hub.engage(session)
        log.info("drafter connected", drafter=info.drafter_id, name=info.name, strategies=info.strategies)
        metrics = loaded.engine.metrics.drafts.stream(info.name)
        reader = asyncio.create_task(self._read(request_iterator, link, loaded.engine, metrics))
        try:
            while not link.closed:
                await link.wait()
                for message in link.outgoing():
                    metrics.sent(message.ByteSize())
                    yield message
        finally:
            self._state.hub.disconnect(link)
            self._state.changed.set()
            reader.cancel()
            log.info("drafter gone", drafter=info.drafter_id)

    def _verification(self, loaded: Loaded) -> Verification:
        limits, engine = loaded.limits, loaded.engine
        return Verification(
            vocab_size=limits.vocab_size,
            max_nodes=limits.max_nodes,
            memory_key=self._state.memory_key,
            least_value=lambda: engine.times.least_value,
            promise=engine.promise,
        )

    async def _read(
        self,
        messages: AsyncIterator[drafting_pb2.DrafterMessage],
        link: DrafterLink,
        engine: Engine,
        metrics: StreamMetrics,
    ) -> None:
        try:
            async for message in messages:
                metrics.received(message.ByteSize())
                kind = message.WhichOneof("message")
                if kind == "draft":
                    metrics.drafted(message.draft.draft_us)
                    session = link.receive(message.draft)
                    if session is not None:
                        engine.drafted(session)
                elif kind == "ping":
                    link.ping(message.ping.nonce)
                elif kind == "goodbye":
                    return
                pause_s = link.pause_s(len(message.draft.tokens))
                if pause_s > 0.0:
                    await asyncio.sleep(pause_s)
        except grpc.RpcError as error:
            log.info("drafter's stream broke", drafter=link.info.drafter_id, why=str(error)[:200])
        finally:
            link.shut()

    def _welcome(self, info: DrafterInfo, loaded: Loaded) -> drafting_pb2.VerifierMessage:
        source = loaded.engine.feature_source
        return drafting_pb2.VerifierMessage(
            welcome=drafting_pb2.Welcome(
                peer=make_peer("paceline-verifier", VERSION),
                verifier_id=self._state.verifier_id,
                model=loaded.name,
                tokenizer_hash=loaded.target.tokenizer.content_hash,
                vocab_size=loaded.limits.vocab_size,
                max_tree_nodes=MAX_TREE_NODES,
                max_tree_depth=MAX_TREE_DEPTH,
                commit_top_k=info.commit_top_k,
                feature_layers=info.features.layers,
                hidden_size=source.hidden_size if source is not None and info.features.layers else 0,
            )
        )

    async def GetModel(
        self, request: verifier_pb2.GetModelRequest, context: grpc.aio.ServicerContext
    ) -> verifier_pb2.GetModelResponse:
        if request.HasField("peer"):
            check_peer(request.peer)
        loaded = self._state.ready()
        target, engine = loaded.target, loaded.engine
        return verifier_pb2.GetModelResponse(
            peer=make_peer("paceline-verifier", VERSION),
            verifier_id=self._state.verifier_id,
            model=loaded.name,
            architecture=target.architecture,
            vocab_size=loaded.limits.vocab_size,
            context_length=target.context_length,
            num_parameters=target.num_parameters,
            dtype=target.dtype,
            device=target.device,
            tokenizer_hash=target.tokenizer.content_hash,
            eos_token_ids=sorted(target.eos_token_ids),
            max_sessions=self._state.settings.max_sessions,
            active_sessions=engine.num_running,
            queued_sessions=engine.num_queued,
            forward_rows=engine.times.cost.rows,
            forward_ms=[seconds * 1e3 for seconds in engine.times.cost.knots],
            weights_hash=target.weights_hash,
            drafters=[
                verifier_pb2.ConnectedDrafter(
                    drafter_id=link.info.drafter_id,
                    name=link.info.name,
                    strategies=link.info.strategies,
                    quarantined=link.quarantined,
                    own=link.info.own,
                )
                for link in self._state.hub.links.values()
            ],
        )

    async def GetTokenizer(
        self, request: verifier_pb2.GetTokenizerRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[verifier_pb2.GetTokenizerResponse]:
        tokenizer = self._state.ready().target.tokenizer
        manifest = verifier_pb2.TokenizerManifest(
            tokenizer_hash=tokenizer.content_hash,
            files=[
                types_pb2.FileInfo(path=file.path, size=len(file.content), sha256=file.sha256)
                for file in tokenizer.files
            ],
        )
        yield verifier_pb2.GetTokenizerResponse(manifest=manifest)
        for file in tokenizer.files:
            for start in range(0, len(file.content), CHUNK_BYTES):
                yield verifier_pb2.GetTokenizerResponse(chunk=file.content[start : start + CHUNK_BYTES])


def _checked_hello(message: Any, source: FeatureSource | None, max_message_bytes: int) -> DrafterInfo:
    """What a drafter says of itself. Raises MALFORMED, OUT_OF_RANGE or INCOMPATIBLE_VERSION."""
    if message is None or message.WhichOneof("message") != "hello":
        raise PacelineError(Reason.MALFORMED, "the first message on a Draft stream must be hello", field="hello")
    hello = message.hello
    check_peer(hello.peer)
    for name in ("drafter_id", "name"):
        value = getattr(hello, name)
        if not 0 < len(value) <= convert.MAX_NAME:
            raise out_of_range(f"hello.{name}", f"{len(value)} characters long", f"1 to {convert.MAX_NAME} characters")
    if not 0 < len(hello.strategies) <= MAX_STRATEGIES:
        raise out_of_range("hello.strategies", f"{len(hello.strategies)} entries", f"1 to {MAX_STRATEGIES} entries")
    if any(not 0 < len(strategy) <= convert.MAX_NAME for strategy in hello.strategies):
        raise out_of_range("hello.strategies", "a name of wrong length", f"1 to {convert.MAX_NAME} characters each")
    features = granted(hello.feature_layers, hello.feature_window, source, max_message_bytes)
    if hello.feature_layers and not features.layers:
        why = "the engine has none" if source is None else "one position takes more than half of --max-message-bytes"
        log.warning("drafter gets no features", drafter=hello.drafter_id, why=why)
    return DrafterInfo(
        drafter_id=hello.drafter_id,
        name=hello.name,
        strategies=tuple(hello.strategies),
        commit_top_k=min(hello.commit_top_k, MAX_COMMIT_TOP_K),
        own=hello.own,
        features=features,
        knows_shadows=hello.peer.protocol_minor >= SHADOWS_SINCE_MINOR,
    )
