"""Asking a router, or a verifier, and counting what came back."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from paceline.v1 import generation_pb2, router_pb2_grpc, types_pb2, verifier_pb2_grpc


@dataclass
class Answer:
    """One answer with its cost.

    Attributes:
        ids, text: the answer.
        sources: for each id "drafter/strategy" that proposed it, "" for the target itself.
        steps: forward passes after the prompt's.
        seconds: from asking to the last event.
        drafters: (proposed, accepted) by name.
        model, seed, prompt_tokens, reason: as the verifier says.
        outcome: its own figures of the whole request.
    """

    ids: list[int] = field(default_factory=list)
    text: str = ""
    sources: list[str] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0
    seed: int = 0
    prompt_tokens: int = 0
    drafters: dict[str, tuple[int, int]] = field(default_factory=dict)
    model: str = ""
    reason: str = ""
    outcome: generation_pb2.Outcome = field(default_factory=generation_pb2.Outcome)

    @property
    def tokens_per_second(self) -> float:
        return len(self.ids) / self.seconds if self.seconds else 0.0

    @property
    def tokens_per_step(self) -> float:
        """The first token comes from the prompt's own pass, so it doesn't count; plain decoding has exactly 1."""
        return (len(self.ids) - 1) / self.steps if self.steps else 1.0


@dataclass(frozen=True, slots=True)
class Part:
    """What one event adds: text, and the tokens behind it. pieces: their bytes, if they were asked for."""

    text: str
    ids: tuple[int, ...]
    sources: tuple[str, ...]
    pieces: tuple[bytes, ...]


def request_for(
    messages: list[tuple[str, str]],
    *,
    max_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    speculation: bool = True,
    drafters: tuple[str, ...] = (),
    pieces: bool = False,
    model: str = "",
) -> generation_pb2.GenerateRequest:
    """A chat request; messages are (role, content). pieces: whether to tell each token's bytes. model: "" for any."""
    return generation_pb2.GenerateRequest(
        messages=types_pb2.ChatMessages(
            messages=[types_pb2.ChatMessage(role=role, content=content) for role, content in messages]
        ),
        sampling=types_pb2.Sampling(temperature=temperature, seed=seed),
        limits=types_pb2.Limits(max_tokens=max_tokens),
        speculation=types_pb2.Speculation(off=not speculation, drafters=drafters),
        log_probs=generation_pb2.LogProbsRequest(top=0) if pieces else None,
        model=model,
    )


Stub = router_pb2_grpc.RouterStub | verifier_pb2_grpc.VerifierStub


async def ask(
    stub: Stub,
    request: generation_pb2.GenerateRequest,
    on_text: Callable[[str], None] = lambda _text: None,
    on_part: Callable[[Part], None] = lambda _part: None,
    timeout_s: float | None = None,
) -> Answer:
    """Sends a request and gathers its answer; `on_text` sees the text as it comes, `on_part` with its tokens."""
    answer = Answer()
    started = time.perf_counter()
    async for event in stub.Generate(request, timeout=timeout_s):
        kind = event.WhichOneof("event")
        if kind == "started":
            answer.seed, answer.prompt_tokens = event.started.seed, event.started.prompt_tokens
            answer.model = event.started.model
        elif kind == "tokens":
            part = _part_of(event.tokens)
            answer.ids.extend(part.ids)
            answer.sources.extend(part.sources)
            answer.text += part.text
            on_text(part.text)
            on_part(part)
        elif kind == "finished":
            _finish(answer, event.finished)
    answer.seconds = time.perf_counter() - started
    return answer


def _part_of(tokens: generation_pb2.Tokens) -> Part:
    names = ("", *tokens.source_names)
    sources = tuple(names[source] if source < len(names) else "" for source in tokens.sources)
    missing = len(tokens.ids) - len(sources)  # a verifier need not tell
    pieces = tuple(one.token.piece for one in tokens.log_probs)
    return Part(tokens.text, tuple(tokens.ids), sources + ("",) * missing, pieces)


def _finish(answer: Answer, finished: generation_pb2.Finished) -> None:
    answer.outcome.CopyFrom(finished.total)
    answer.reason = generation_pb2.FinishReason.Name(finished.reason).removeprefix("FINISH_REASON_").lower()
    answer.steps = finished.total.steps
    for credit in finished.total.drafters:
        proposed, accepted = answer.drafters.get(credit.drafter_name, (0, 0))
        answer.drafters[credit.drafter_name] = (proposed + credit.proposed, accepted + credit.accepted)
