"""The two shapes of an answer: a chat's and a completion's, whole and in parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from pydantic import BaseModel

from paceline.router.http.log_probs import Offsets, chat_log_probs, completion_log_probs
from paceline.router.http.responses import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatMessage,
    Completion,
    CompletionChoice,
    Delta,
    FinishReason,
    Metrics,
    Usage,
)
from paceline.router.http.told import Told
from paceline.v1 import generation_pb2

LogProbs = Sequence[generation_pb2.TokenLogProbs]
Chunk = TypeVar("Chunk", ChatChunk, Completion)


@dataclass(slots=True)
class Head:
    """What all parts of an answer begin with. `model` is known when a verifier has accepted the prompt."""

    id: str
    created: int
    model: str = ""


@dataclass(frozen=True, slots=True)
class Whole:
    """One choice when it is complete; `log_probs` is None if they were not asked for."""

    text: str
    log_probs: LogProbs | None
    finish_reason: FinishReason


class Shape(Protocol):
    """How parts are written; each method returns the body of one event of a stream, and `whole` all of a response."""

    head: Head

    def opening(self, index: int) -> BaseModel | None:
        """Said once of each choice, before its first token."""

    def part(self, index: int, text: str, log_probs: LogProbs | None, told: Told | None) -> BaseModel: ...

    def end(self, index: int, reason: FinishReason, metrics: Metrics | None, told: Told | None) -> BaseModel: ...

    def usage(self, usage: Usage, metrics: Metrics | None) -> BaseModel: ...

    def whole(self, choices: Sequence[Whole], usage: Usage, metrics: Metrics | None) -> BaseModel: ...


@dataclass(slots=True)
class ChatShape:
    head: Head

    def opening(self, index: int) -> BaseModel:
        return self._chunk([_chat_choice(index, Delta(role="assistant", content=""))])

    def part(self, index: int, text: str, log_probs: LogProbs | None, told: Told | None) -> BaseModel:
        choice = _chat_choice(index, Delta(content=text))
        if log_probs is not None:
            choice.logprobs = chat_log_probs(log_probs)
        return _telling(self._chunk([choice]), told)

    def end(self, index: int, reason: FinishReason, metrics: Metrics | None, told: Told | None) -> BaseModel:
        choice = _chat_choice(index, Delta())
        choice.finish_reason = reason
        return self._with(_telling(self._chunk([choice]), told), metrics)

    def usage(self, usage: Usage, metrics: Metrics | None) -> BaseModel:
        chunk = self._chunk([])
        chunk.usage = usage
        return self._with(chunk, metrics)

    def whole(self, choices: Sequence[Whole], usage: Usage, metrics: Metrics | None) -> BaseModel:
        body = ChatCompletion(
            id=self.head.id,
            object="chat.completion",
            created=self.head.created,
            model=self.head.model,
            choices=[
                ChatChoice(
                    index=index,
                    message=ChatMessage(role="assistant", content=choice.text, refusal=None),
                    logprobs=None if choice.log_probs is None else chat_log_probs(choice.log_probs),
                    finish_reason=choice.finish_reason,
                )
                for index, choice in enumerate(choices)
            ],
            usage=usage,
        )
        return self._with(body, metrics)

    def _chunk(self, choices: list[ChatChunkChoice]) -> ChatChunk:
        head = self.head
        return ChatChunk(
            id=head.id, object="chat.completion.chunk", created=head.created, model=head.model, choices=choices
        )

    @staticmethod
    def _with(body: ChatChunk | ChatCompletion, metrics: Metrics | None) -> BaseModel:
        if metrics is not None:
            body.metrics = metrics
        return body


def _chat_choice(index: int, delta: Delta) -> ChatChunkChoice:
    return ChatChunkChoice(index=index, delta=delta, logprobs=None, finish_reason=None)


class CompletionShape:
    def __init__(self, head: Head) -> None:
        self.head = head
        self._offsets: dict[int, Offsets] = {}

    def opening(self, index: int) -> None:
        return None

    def part(self, index: int, text: str, log_probs: LogProbs | None, told: Told | None) -> BaseModel:
        return _telling(self._body([self._choice(index, text, log_probs, None)]), told)

    def end(self, index: int, reason: FinishReason, metrics: Metrics | None, told: Told | None) -> BaseModel:
        return self._with(_telling(self._body([self._choice(index, "", None, reason)]), told), None, metrics)

    def usage(self, usage: Usage, metrics: Metrics | None) -> BaseModel:
        return self._with(self._body([]), usage, metrics)

    def whole(self, choices: Sequence[Whole], usage: Usage, metrics: Metrics | None) -> BaseModel:
        shown = [
            self._choice(index, choice.text, choice.log_probs, choice.finish_reason)
            for index, choice in enumerate(choices)
        ]
        return self._with(self._body(shown), usage, metrics)

    def _choice(
        self, index: int, text: str, log_probs: LogProbs | None, reason: FinishReason | None
    ) -> CompletionChoice:
        offsets = self._offsets.setdefault(index, Offsets())
        shown = None if log_probs is None else completion_log_probs(log_probs, offsets)
        return CompletionChoice(index=index, text=text, logprobs=shown, finish_reason=reason)

    def _body(self, choices: list[CompletionChoice]) -> Completion:
        head = self.head
        return Completion(id=head.id, object="text_completion", created=head.created, model=head.model, choices=choices)

    @staticmethod
    def _with(body: Completion, usage: Usage | None, metrics: Metrics | None) -> BaseModel:
        if usage is not None:
            body.usage = usage
        if metrics is not None:
            body.metrics = metrics
        return body


def _telling(chunk: Chunk, told: Told | None) -> Chunk:
    if told is not None:
        chunk.paceline = told
    return chunk
