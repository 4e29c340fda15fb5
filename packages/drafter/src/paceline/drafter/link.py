"""One verifier: the stream to it, kept up for ever."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
import grpc.aio
import structlog

from paceline.drafter import convert
from paceline.drafter.drafting import FetchTokenizer
from paceline.drafter.features import Features
from paceline.drafter.identity import Identity
from paceline.drafter.session import Sessions, Terms
from paceline.v1 import drafting_pb2, verifier_pb2_grpc
from paceline.wire.channel import connect
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.settings import ClientSettings
from paceline.wire.status import from_rpc_error
from paceline.wire.target_tokenizer import fetch_tokenizer, tokenizer_json
from paceline.wire.tls import hint
from paceline.wire.waiting import happens

log = structlog.get_logger()

T = TypeVar("T")

EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]

WELCOME_S = 10.0  # to wait for an answer to Hello
GOODBYE_S = 1.0  # to wait for the verifier to close its side
FIRST_PAUSE_S = 0.1
MAX_PAUSE_S = 5.0
INCOMPATIBLE_PAUSE_S = 60.0  # until somebody has installed another version or changed a token
_INCOMPATIBLE = (
    Reason.INCOMPATIBLE_VERSION,
    Reason.UNAUTHENTICATED,
    Reason.VOCABULARY_MISMATCH,
    Reason.UNUSABLE_REVISION,
)
PING_S = 1.0
PINGS_SINCE_MINOR = 1  # protocol 1.1 has Ping


NewSessions = Callable[[Terms, FetchTokenizer], Awaitable[Sessions]]


class Link:
    """Keeps one Draft stream to a verifier, dialling again after every loss.

    Use: `asyncio.create_task(link.run())`; later `await link.close()`, which says goodbye and ends `run`.

    Args:
        address: host:port of the verifier.
        settings: how to dial.
        identity: who this drafter is, asked at the beginning of each stream (its revision may change).
        new_sessions: makes the state of a new stream.
        jitter: a number in [0, 1) at each call, so that drafters do not come back all at once.
    """

    def __init__(
        self,
        address: str,
        settings: ClientSettings,
        identity: Callable[[], Identity],
        new_sessions: NewSessions,
        jitter: Callable[[], float],
    ) -> None:
        self._address = address
        self._settings = settings
        self._identity = identity
        self._new_sessions = new_sessions
        self._jitter = jitter
        self._stopping = asyncio.Event()
        self._stopped = asyncio.Event()
        self._stream: _Stream | None = None
        self._failures = 0
        self._complaint = ""  # the last reason logged, so that an hour without verifier is one line

    async def run(self) -> None:
        """Until `close`."""
        try:
            async with connect(self._address, self._settings) as channel:
                stub = verifier_pb2_grpc.VerifierStub(channel)
                while not self._stopping.is_set():
                    pause_s = await self._attempt(stub)
                    await self._unless_stopped(asyncio.sleep(pause_s))
        finally:
            self._stopped.set()

    async def close(self) -> None:
        """Says goodbye if there is a stream, and waits until `run`, which has to be running, has ended."""
        self._stopping.set()
        if self._stream is not None:
            self._stream.wake.set()
        await self._stopped.wait()

    async def _attempt(self, stub: Any) -> float:
        """Holds one stream as long as it lasts; returns how long to wait before the next."""
        call = stub.Draft()
        try:
            terms = await self._unless_stopped(self._handshake(call), WELCOME_S)
            sessions = await self._unless_stopped(self._prepare(stub, terms)) if terms is not None else None
            if terms is not None and sessions is not None:
                await self._hold(call, terms, sessions)
                self._complain("stream closed by the verifier")
            elif not self._stopping.is_set():
                self._complain(f"no welcome within {WELCOME_S:g} s")
        except PacelineError as error:
            return self._pause_after(error)
        except grpc.aio.AioRpcError as error:
            refusal = from_rpc_error(error)
            if refusal is not None:
                return self._pause_after(refusal)
            self._complain(hint(error.details() or "", self._settings) or error.code().name)
        except asyncio.InvalidStateError:
            self._complain("stream lost")  # grpc.aio's answer to a write after the end of the call
        finally:
            call.cancel()  # of a stream that is over this is nothing
        return self._pause_s()

    async def _handshake(self, call: Any) -> Terms:
        identity = self._identity()
        hello = convert.hello(
            identity.drafter_id,
            identity.name,
            identity.strategies,
            identity.commit_top_k,
            identity.own,
            identity.feature_layers,
            identity.feature_window,
            identity.revision,
        )
        await call.write(hello)
        message = await call.read()
        if message is EOF:
            raise PacelineError(Reason.VERIFIER_LOST, "the verifier closed the stream without a welcome")
        return convert.read_terms(message, identity.commit_top_k, identity.own, identity.feature_layers)

    async def _prepare(self, stub: Any, terms: Terms) -> Sessions:
        """The sessions of a stream that was welcomed. The verifier's messages wait meanwhile."""

        async def fetch() -> str:
            return tokenizer_json(await fetch_tokenizer(stub, terms.tokenizer_hash))

        return await self._new_sessions(terms, fetch)

    async def _hold(self, call: Any, terms: Terms, sessions: Sessions) -> None:
        self._failures, self._complaint = 0, ""
        log.info("drafting", verifier=self._address, verifier_id=terms.verifier_id, model=terms.model)
        self._stream = _Stream(call, terms, sessions, self._stopping)
        sessions.watch.stream(up=True)
        try:
            await self._stream.run()
        finally:
            sessions.watch.stream(up=False)
            log.info("stream ended", verifier=self._address, **sessions.tally)
            sessions.detach()
            self._stream = None

    async def _unless_stopped(self, work: Awaitable[T], timeout_s: float | None = None) -> T | None:
        """The result of `work`, or None if it is not there in time or the link is closed meanwhile."""
        working = asyncio.ensure_future(work)
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({working, stopping}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else None
        finally:
            working.cancel()
            stopping.cancel()

    def _pause_after(self, refusal: PacelineError) -> float:
        self._complain(refusal.message)
        if refusal.reason in _INCOMPATIBLE:
            return INCOMPATIBLE_PAUSE_S * (1.0 + self._jitter())
        return self._pause_s()

    def _pause_s(self) -> float:
        pause_s = min(FIRST_PAUSE_S * 2.0 ** min(self._failures, 16), MAX_PAUSE_S)
        self._failures += 1
        return pause_s * (0.5 + 0.5 * self._jitter())

    def _complain(self, why: str) -> None:
        if why != self._complaint and not self._stopping.is_set():
            log.warning("no stream to verifier", verifier=self._address, why=why)
        self._complaint = why


class _Stream:
    """One established stream: a reader that feeds the sessions, a writer that drafts whenever it can send.

    There is no queue of drafts: one is made when the one before has been taken, for the context as it is
    then. So nothing old is ever sent, and a verifier that reads slowly costs no memory.
    """

    def __init__(self, call: Any, terms: Terms, sessions: Sessions, stopping: asyncio.Event) -> None:
        self.sessions = sessions
        self.wake = asyncio.Event()
        self._call = call
        self._terms = terms
        self._stopping = stopping
        self._clock = asyncio.get_running_loop().time
        self._quarantined_until = 0.0
        self._pings = terms.protocol_minor >= PINGS_SINCE_MINOR
        self._ping_at = 0.0
        self._pinged: tuple[int, float] | None = None  # nonce, and when it was sent; until the answer is here
        sessions.notify = self.wake.set

    async def run(self) -> None:
        """Returns when the verifier has closed the stream or the link is closed; raises if the stream breaks.

        A read is never cancelled while it is pending, unless the verifier does not answer a goodbye: grpc.aio
        leaks memory for each such call.
        """
        reading = asyncio.create_task(self._read())
        reading.add_done_callback(lambda _reading: self.wake.set())
        try:
            await self._write(reading)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await asyncio.wait({reading}, timeout=GOODBYE_S)  # the read knows why the stream broke
            if not reading.done():
                raise
        if not reading.done():
            await asyncio.wait({reading}, timeout=GOODBYE_S)
        if not reading.done():
            reading.cancel()
            return
        await reading

    async def _write(self, reading: asyncio.Task[None]) -> None:
        while not reading.done():
            if self._stopping.is_set():
                await self._call.write(convert.goodbye("stopping"))
                await self._call.done_writing()
                return
            quarantine_s = self._quarantined_until - self._clock()
            if not self.sessions.is_due or quarantine_s > 0.0:
                await self._sleep(quarantine_s if quarantine_s > 0.0 else None)
                continue
            await asyncio.sleep(0)  # what has arrived is read first: it may outdate the draft
            draft = self.sessions.next_draft()
            if draft is not None:
                await self._call.write(convert.draft_message(draft))
                if self._pings and self._clock() >= self._ping_at:
                    await self._ping()

    async def _ping(self) -> None:
        """Measures the link; behind a draft, so that it holds up none."""
        nonce = random.getrandbits(64)
        self._pinged = nonce, self._clock()
        self._ping_at = self._clock() + PING_S
        await self._call.write(convert.ping(nonce))

    def _ponged(self, nonce: int) -> None:
        if self._pinged is not None and self._pinged[0] == nonce:
            self.sessions.pace.observe_round_trip(self._clock() - self._pinged[1])
            self._pinged = None

    async def _sleep(self, timeout_s: float | None) -> None:
        if await happens(self.wake, timeout_s):
            self.wake.clear()

    async def _read(self) -> None:
        while (message := await self._call.read()) is not EOF:
            try:
                self._take(message)
            except PacelineError as error:
                # One bad message costs its session, not the stream.
                self.sessions.note("bad_message")
                log.warning("bad message from verifier", verifier_id=self._terms.verifier_id, why=error.message)
            self.wake.set()

    def _take(self, message: drafting_pb2.VerifierMessage) -> None:
        sessions, terms = self.sessions, self._terms
        match message.WhichOneof("message"):
            case "opened":
                sessions.drop(message.opened.session_id)  # gone even if its successor is refused
                sessions.opened(convert.read_opening(message.opened, terms))
            case "commit":
                try:
                    features = self._features(message.commit)
                    sessions.committed(convert.read_commit(message.commit, terms, features))
                except PacelineError:
                    sessions.drop(message.commit.session_id)
                    raise
            case "closed":
                sessions.closed(message.closed.session_id)
            case "pong":
                self._ponged(convert.read_pong(message.pong))
            case "refusal":
                self._refused(message.refusal)
            case kind:
                raise PacelineError(
                    Reason.MALFORMED, f"{kind} is not a message for a welcomed drafter", field="message"
                )

    def _features(self, commit: drafting_pb2.Commit) -> Features | None:
        """None if they can't be used: heads begin the session anew with the next ones."""
        try:
            return convert.read_features(commit, self._terms)
        except PacelineError as error:
            self.sessions.note("bad_features")
            log.warning("bad features from verifier", verifier_id=self._terms.verifier_id, why=error.message)
            return None

    def _refused(self, refusal: drafting_pb2.Refusal) -> None:
        reason = refusal.reason if refusal.reason in Reason.__members__ else Reason.INTERNAL.value
        self.sessions.note(f"refused_{reason.lower()}")
        quarantine_s = convert.read_quarantine_s(refusal)
        if quarantine_s > 0.0:
            self._quarantined_until = max(self._quarantined_until, self._clock() + quarantine_s)
            log.warning("quarantined", verifier_id=self._terms.verifier_id, seconds=quarantine_s, why=reason)
