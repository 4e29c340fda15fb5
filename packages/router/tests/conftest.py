"""Verifiers as a router sees them: real servers whose tokens are a pure function of seed and position."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
import pytest

from paceline.router.member import Member, Role
from paceline.router.serve import Router
from paceline.router.settings import RouterSettings
from paceline.v1 import generation_pb2, router_pb2_grpc, types_pb2, verifier_pb2, verifier_pb2_grpc
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.status import abort

DEADLINE_S = 10.0
DEFAULT_MAX_TOKENS = 24


def token_at(seed: int, position: int) -> int:
    """What every fake verifier of the right tokenizer says at a position of the answer."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{position}".encode()).digest()[:2], "big")


def answer(seed: int, num_tokens: int, start: int = 0) -> list[int]:
    return [token_at(seed, position) for position in range(start, num_tokens)]


def log_probs_at(seed: int, position: int, top: int) -> generation_pb2.TokenLogProbs:
    """The token itself is the likeliest, and each of the others half as likely as the one before."""

    def one(rank: int) -> generation_pb2.TokenLogProb:
        token = token_at(seed, position) + rank
        return generation_pb2.TokenLogProb(id=token, piece=f"{token} ".encode(), log_prob=-0.5 - 0.7 * rank)

    return generation_pb2.TokenLogProbs(token=one(0), top=[one(rank) for rank in range(top)])


async def eventually(condition: Callable[[], object]) -> None:
    """Waits until a condition holds; fails after a while."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.005)


@dataclass
class FakeVerifier(verifier_pb2_grpc.VerifierServicer):
    """A verifier under a test's control.

    Attributes:
        drafters: names by id of those connected.
        protocol: that it says it speaks.
        accepted: sources of an answer's tokens, over and over; 0 is the target itself.
        speed: of the drafters in force; 1 for none.
        tokens_per_step: that its outcomes tell of.
        shadows: scores that each outcome of a segment brings, whether they are asked for or not.
        refusal: raised for each request, if set.
        stop_at: position at which an answer stops to go on until `resume` is set; the test may kill it there.
        fail_at: position at which the answer ends with `failure`.
        stop_after_step_at, fail_after_step_at: the same, between a step and the tokens that it brought.
        rows: of each of its steps, for those who ask.
        token_s: pause after each token.
        silent: takes requests and says nothing, not even that it did.
        requests: seen so far. engaged: speculation by Engage, in order. num_yielded: tokens that gRPC took.
        num_cancelled, num_ended: requests, those cancelled among the ended.
    """

    verifier_id: str
    drafters: dict[str, str] = field(default_factory=dict)
    protocol: tuple[int, int] = (1, 5)
    accepted: tuple[int, ...] = (0,)
    model: str = "m"
    tokenizer_hash: str = "hash"
    capacity: int = 4
    speed: Callable[[frozenset[str]], float] = lambda names: 2.0 if names else 1.0
    tokens_per_step: int = 1
    shadows: tuple[generation_pb2.ShadowScore, ...] = ()
    refusal: PacelineError | None = None
    refuse_times: int = 1_000_000
    stop_at: int = -1
    fail_at: int = -1
    stop_after_step_at: int = -1
    fail_after_step_at: int = -1
    rows: int = 9
    token_s: float = 0.0
    silent: bool = False
    failure: PacelineError | grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    resume: asyncio.Event = field(default_factory=asyncio.Event)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    requests: list[generation_pb2.GenerateRequest] = field(default_factory=list)
    time_left: list[float | None] = field(default_factory=list)
    engaged: list[types_pb2.Speculation] = field(default_factory=list)
    num_cancelled: int = 0
    num_yielded: int = 0
    num_ended: int = 0
    address: str = ""
    server: Any = None
    in_force: dict[str, types_pb2.Speculation] = field(default_factory=dict)

    async def start(self, port: int = 0) -> FakeVerifier:
        self.server = grpc.aio.server()
        verifier_pb2_grpc.add_VerifierServicer_to_server(self, self.server)
        self.address = f"127.0.0.1:{self.server.add_insecure_port(f'127.0.0.1:{port}')}"
        await self.server.start()
        return self

    async def kill(self) -> None:
        await self.server.stop(None)

    def member(self, **fields: Any) -> Member:
        said: dict[str, Any] = {
            "address": self.address,
            "model": self.model,
            "tokenizer_hash": self.tokenizer_hash,
            "capacity": self.capacity,
            "connected": tuple(self.drafters),
            "protocol": self.protocol,
        }
        return Member(self.verifier_id, Role.VERIFIER, **{**said, **fields})

    async def Generate(
        self, request: generation_pb2.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[generation_pb2.GenerateEvent]:
        self.requests.append(request)
        self.time_left.append(context.time_remaining())
        try:
            if self.refusal is not None and self.refuse_times > 0:
                self.refuse_times -= 1
                raise self.refusal
            if self.silent:
                await asyncio.Event().wait()
            self._check_drafters(request.speculation)
            self.in_force[request.request_id] = request.speculation
            async for event in self._answer(request):
                yield event
        except PacelineError as error:
            await abort(context, error)
        except (asyncio.CancelledError, GeneratorExit):  # the latter where gRPC was sending when it was cancelled
            self.num_cancelled += 1
            raise
        except _Failure as failure:
            await context.abort(failure.code, "failed as told")
        finally:
            self.num_ended += 1

    async def Engage(
        self, request: verifier_pb2.EngageRequest, context: grpc.aio.ServicerContext
    ) -> verifier_pb2.EngageResponse:
        try:
            self._check_drafters(request.speculation)
        except PacelineError as error:
            await abort(context, error)
        self.engaged.append(request.speculation)
        self.in_force[request.request_id] = request.speculation
        return verifier_pb2.EngageResponse()

    def _check_drafters(self, speculation: types_pb2.Speculation) -> None:
        for name in speculation.drafters:
            if name not in self.drafters and name not in self.drafters.values():
                raise PacelineError(Reason.UNKNOWN_DRAFTER, f"no drafter {name!r} here", value=name)

    async def _answer(self, request: generation_pb2.GenerateRequest) -> AsyncIterator[generation_pb2.GenerateEvent]:
        seed = request.sampling.seed
        end = request.limits.max_tokens or DEFAULT_MAX_TOKENS
        started = generation_pb2.Started(
            request_id=request.request_id, verifier_id=self.verifier_id, model=self.model, seed=seed, prompt_tokens=3
        )
        yield generation_pb2.GenerateEvent(started=started)
        begin = segment = len(request.committed.ids)
        assert list(request.committed.ids) == answer(seed, begin)
        for position in range(begin, end):
            if position == self.stop_at:
                self.stopped.set()
                await self.resume.wait()
            if position == self.fail_at:
                if isinstance(self.failure, PacelineError):
                    raise self.failure
                raise _Failure(self.failure)
            token = token_at(seed, position)
            tokens = generation_pb2.Tokens(
                ids=[token], text=f"{token} ", sources=[self.accepted[position % len(self.accepted)]]
            )
            if request.HasField("log_probs"):
                tokens.log_probs.append(log_probs_at(seed, position, request.log_probs.top))
            if request.HasField("steps") and self.protocol >= (1, 5):
                if tokens.sources[0]:
                    tokens.source_names.append("d/s")
                tokens.pieces.append(f"{token} ".encode())
                yield generation_pb2.GenerateEvent(step=self._step(token, position))
                if position == self.stop_after_step_at:
                    self.stopped.set()
                    await self.resume.wait()
                if position == self.fail_after_step_at:
                    raise _Failure(grpc.StatusCode.UNAVAILABLE)
            yield generation_pb2.GenerateEvent(tokens=tokens)
            self.num_yielded += 1
            await asyncio.sleep(self.token_s)
            if position + 1 == end or 0 < request.segment_tokens <= position + 1 - segment:
                outcome = self._outcome(request.request_id, position + 1 - segment)
                outcome.shadows.extend(self.shadows)
                yield generation_pb2.GenerateEvent(outcome=outcome)
                segment = position + 1
        finished = generation_pb2.Finished(
            reason=generation_pb2.FINISH_REASON_LENGTH, total=self._outcome(request.request_id, end - begin)
        )
        yield generation_pb2.GenerateEvent(finished=finished)

    def _step(self, token: int, position: int) -> generation_pb2.Step:
        """That brought the token at a position: two candidates, one below the other, of which the first may be right;
        `rows` says whose step it is."""
        accepted = bool(self.accepted[position % len(self.accepted)])
        return generation_pb2.Step(
            nodes=[
                generation_pb2.StepNode(
                    id=token + (not accepted), piece=b"\xc3", sources=[2, 1], probability=0.9, accepted=accepted
                ),
                generation_pb2.StepNode(id=5, piece=b"x", parent=1, sources=[1], probability=0.25),
            ],
            source_names=["e/t", "d/s"],
            hidden_nodes=3,
            step_s=0.02,
            wait_s=0.001,
            rows=self.rows,
            plain_step_s=0.018,
        )

    def _outcome(self, request_id: str, num_tokens: int) -> generation_pb2.Outcome:
        speculation = self.in_force[request_id]
        names = frozenset(self.drafters.get(one, one) for one in speculation.drafters)
        if not speculation.off and not names:
            names = frozenset(self.drafters.values())
        credit = generation_pb2.DrafterCredit(drafter_id="d", strategy="s", drafter_name="d", proposed=num_tokens)
        return generation_pb2.Outcome(
            tokens=num_tokens,
            steps=num_tokens // self.tokens_per_step,
            nodes=sum(self.accepted) * num_tokens,
            verify_s=0.01 * num_tokens / self.speed(names),
            plain_s=0.01 * num_tokens,
            prompt_tokens=3,
            drafters=[credit],
        )


class _Failure(Exception):
    def __init__(self, code: grpc.StatusCode) -> None:
        self.code = code


@dataclass
class Deployment:
    """A router in this process with its channel, and fake verifiers."""

    stack: AsyncExitStack
    router: Router
    stub: Any
    registry: Any

    async def verifier(self, verifier_id: str, announced: bool = True, **fields: Any) -> FakeVerifier:
        verifier = await FakeVerifier(verifier_id, **fields).start()
        self.stack.push_async_callback(verifier.kill)
        if announced:
            self.announce(verifier)
        return verifier

    def announce(self, verifier: FakeVerifier, **fields: Any) -> None:
        """The verifier and its drafters announce themselves."""
        for drafter_id, name in verifier.drafters.items():
            self.router.backend.roster.announce(Member(drafter_id, Role.DRAFTER, name=name))
        self.router.backend.roster.announce(verifier.member(**fields))

    def generate(self, timeout_s: float | None = DEADLINE_S, **fields: Any) -> Any:
        return self.stub.Generate(request_of(**fields), timeout=timeout_s)


def request_of(seed: int = 7, max_tokens: int = DEFAULT_MAX_TOKENS, **fields: Any) -> generation_pb2.GenerateRequest:
    return generation_pb2.GenerateRequest(
        text="a prompt",
        sampling=types_pb2.Sampling(temperature=1.0, seed=seed),
        limits=types_pb2.Limits(max_tokens=max_tokens),
        **fields,
    )


Deploy = Callable[..., Awaitable[Deployment]]


@pytest.fixture
async def deploy() -> AsyncIterator[Deploy]:
    """Starts routers with the settings given; everything ends with the test."""
    async with AsyncExitStack() as stack:

        async def start(**fields: Any) -> Deployment:
            settings = RouterSettings(
                **{"listen": "127.0.0.1:0", "state": "memory:", "lease_s": 60.0, "segment_tokens": 4, **fields}
            )
            router = Router(settings)
            address = await router.server.bind()
            stack.push_async_callback(router.close)
            stack.push_async_callback(router.server.grpc.stop, None)
            await router.start()
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
            return Deployment(stack, router, router_pb2_grpc.RouterStub(channel), router_pb2_grpc.RegistryStub(channel))

        yield start
