"""A router and a trainer as commands see them: a real server on loopback, whose answers a test sets."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from paceline.v1 import generation_pb2, router_pb2, router_pb2_grpc, trainer_pb2, trainer_pb2_grpc, types_pb2
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.status import CODES, DETAILS_KEY, encode_details
from paceline.wire.version import PROTOCOL_MAJOR, PROTOCOL_MINOR

PEER = types_pb2.Peer(
    package="paceline-router", version="0.1.0", protocol_major=PROTOCOL_MAJOR, protocol_minor=PROTOCOL_MINOR
)
PIECES = (b"Zw\xc3", b"\xb6lf ", b"Boxk", b"\xc3\xa4mpfer")  # characters that lie across tokens
TEXTS = ("Zw", "ölf ", "Boxk", "ämpfer")
SOURCES = ("", "suffix/suffix", "", "recycling/recycling")


def member(role: router_pb2.Role, **fields: Any) -> router_pb2.Member:
    return router_pb2.Member(role=role, peer=PEER, **fields)


def a_status(work: router_pb2.VerifierWork | None = None) -> router_pb2.GetStatusResponse:
    """One verifier with two drafters, and a third that isn't connected."""
    return router_pb2.GetStatusResponse(
        peer=PEER,
        policy="linucb",
        active_requests=1,
        finished_requests=7,
        members=[
            member(
                router_pb2.ROLE_VERIFIER,
                id="v",
                name="v",
                address="127.0.0.1:1",
                model="m",
                load=3,
                capacity=8,
                connected=["s-1", "r-1"],
                work=work,
            ),
            member(router_pb2.ROLE_DRAFTER, id="s-1", name="suffix", strategies=["suffix"]),
            member(router_pb2.ROLE_DRAFTER, id="r-1", name="recycling", strategies=["recycling"], revision="ab" * 32),
            member(router_pb2.ROLE_DRAFTER, id="x-1", name="[red]far", own=True),
        ],
        arms=[
            router_pb2.ArmStatus(model="m", pulls=2.0, mean_reward=1.0, bonus=0.25),
            router_pb2.ArmStatus(model="m", drafters=["suffix"], pulls=12.5, mean_reward=1.75, bonus=0.5),
            router_pb2.ArmStatus(model="m", drafters=["recycling"], bonus=float("inf")),
        ],
    )


def work(clock_s: float, tokens: int, **fields: Any) -> router_pb2.VerifierWork:
    """Two tokens a step, half of four candidates a step accepted, all by `suffix`."""
    steps = tokens // 2
    return router_pb2.VerifierWork(
        clock_s=clock_s,
        generated_tokens=tokens,
        session_steps=steps,
        draft_tokens=4 * steps,
        accepted_tokens=2 * steps,
        drafters=[{"name": "suffix", "draft_tokens": 4 * steps, "accepted_tokens": 2 * steps}],
        **fields,
    )


@dataclass
class FakeRouter(router_pb2_grpc.RouterServicer):
    """statuses: one for each time somebody asks, the last one from then on. plain_text: without speculation."""

    statuses: list[router_pb2.GetStatusResponse] = field(default_factory=lambda: [a_status()])
    refusal: PacelineError | None = None
    token: str = ""
    plain_text: str | None = None
    requests: list[generation_pb2.GenerateRequest] = field(default_factory=list)
    address: str = ""

    def GetStatus(
        self, request: router_pb2.GetStatusRequest, context: grpc.ServicerContext
    ) -> router_pb2.GetStatusResponse:
        self._check(context)
        return self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]

    def Generate(
        self, request: generation_pb2.GenerateRequest, context: grpc.ServicerContext
    ) -> Iterator[generation_pb2.GenerateEvent]:
        self._check(context)
        self.requests.append(request)
        seed = request.sampling.seed if request.sampling.HasField("seed") else 42
        started = generation_pb2.Started(request_id="r", model="m", seed=seed, prompt_tokens=5)
        yield generation_pb2.GenerateEvent(started=started)
        count = min(len(PIECES), request.limits.max_tokens or len(PIECES))
        for index in range(count):
            tokens = generation_pb2.Tokens(ids=[index], text=TEXTS[index])
            if not request.speculation.off and SOURCES[index]:
                tokens.source_names.append(SOURCES[index])
                tokens.sources.append(1)
            if request.speculation.off and self.plain_text is not None:
                tokens.text = self.plain_text
            if request.HasField("log_probs"):
                tokens.log_probs.add().token.piece = PIECES[index]
            yield generation_pb2.GenerateEvent(tokens=tokens)
        total = generation_pb2.Outcome(tokens=count, steps=2, plain_s=float("nan"))
        total.drafters.add(drafter_id="s-1", drafter_name="suffix", strategy="suffix", proposed=4, accepted=1)
        finished = generation_pb2.Finished(reason=generation_pb2.FINISH_REASON_STOP, total=total)
        yield generation_pb2.GenerateEvent(finished=finished)

    def _check(self, context: grpc.ServicerContext) -> None:
        shown = dict(context.invocation_metadata()).get("authorization", "")
        error = self.refusal
        if self.token and shown != f"Bearer {self.token}":
            error = PacelineError(Reason.UNAUTHENTICATED, "a token is asked for")
        if error is not None:
            context.set_trailing_metadata(((DETAILS_KEY, encode_details(error)),))
            context.abort(CODES[error.reason], error.message)


@dataclass
class FakeTrainer(trainer_pb2_grpc.TrainerServicer):
    """Pages of at most two revisions."""

    revisions: list[trainer_pb2.Revision] = field(default_factory=list)
    address: str = ""

    def ListRevisions(
        self, request: trainer_pb2.ListRevisionsRequest, context: grpc.ServicerContext
    ) -> trainer_pb2.ListRevisionsResponse:
        found = [one for one in self.revisions if request.drafter in ("", one.manifest.drafter)]
        first = int(request.page_token or 0)
        end = first + min(2, request.page_size or 2)
        return trainer_pb2.ListRevisionsResponse(
            revisions=found[first:end], next_page_token=str(end) if end < len(found) else ""
        )


@contextmanager
def serving(router: FakeRouter | None = None, trainer: FakeTrainer | None = None) -> Iterator[None]:
    """Both on one port, which becomes their address."""
    server = grpc.server(ThreadPoolExecutor(4))
    if router is not None:
        router_pb2_grpc.add_RouterServicer_to_server(router, server)
    if trainer is not None:
        trainer_pb2_grpc.add_TrainerServicer_to_server(trainer, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    for one in (router, trainer):
        if one is not None:
            one.address = address
    server.start()
    try:
        yield
    finally:
        server.stop(None).wait()
