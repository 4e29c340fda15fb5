"""Asking a router, or a verifier, and counting what came back."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from paceline.v1 import generation_pb2, router_pb2_grpc, types_pb2, verifier_pb2_grpc


@dataclass
class Answer:
    """One answer with its cost. `steps` are forward passes after the prompt's."""

    ids: list[int] = field(default_factory=list)
    text: str = ""
    steps: int = 0
    seconds: float = 0.0
    seed: int = 0
    prompt_tokens: int = 0
    drafters: dict[str, tuple[int, int]] = field(default_factory=dict)  # name: proposed, accepted

    @property
    def tokens_per_second(self) -> float:
        return len(self.ids) / self.seconds if self.seconds else 0.0

    @property
    def tokens_per_step(self) -> float:
        """The first token comes from the prompt's own pass, so it doesn't count; plain decoding has exactly 1."""
        return (len(self.ids) - 1) / self.steps if self.steps else 1.0


def request_for(
    messages: list[tuple[str, str]],
    *,
    max_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    speculation: bool = True,
    drafters: tuple[str, ...] = (),
) -> generation_pb2.GenerateRequest:
    """A chat request; messages are (role, content)."""
    return generation_pb2.GenerateRequest(
        messages=types_pb2.ChatMessages(
            messages=[types_pb2.ChatMessage(role=role, content=content) for role, content in messages]
        ),
        sampling=types_pb2.Sampling(temperature=temperature, seed=seed),
        limits=types_pb2.Limits(max_tokens=max_tokens),
        speculation=types_pb2.Speculation(off=not speculation, drafters=drafters),
    )


Stub = router_pb2_grpc.RouterStub | verifier_pb2_grpc.VerifierStub


async def ask(
    stub: Stub,
    request: generation_pb2.GenerateRequest,
    on_text: Callable[[str], None] = lambda _text: None,
) -> Answer:
    """Sends a request and gathers its answer; `on_text` sees the text as it comes."""
    answer = Answer()
    started = time.perf_counter()
    async for event in stub.Generate(request):
        kind = event.WhichOneof("event")
        if kind == "started":
            answer.seed, answer.prompt_tokens = event.started.seed, event.started.prompt_tokens
        elif kind == "tokens":
            answer.ids.extend(event.tokens.ids)
            answer.text += event.tokens.text
            on_text(event.tokens.text)
        elif kind == "finished":
            answer.steps = event.finished.total.steps
            for credit in event.finished.total.drafters:
                proposed, accepted = answer.drafters.get(credit.drafter_name, (0, 0))
                answer.drafters[credit.drafter_name] = (proposed + credit.proposed, accepted + credit.accepted)
    answer.seconds = time.perf_counter() - started
    return answer
