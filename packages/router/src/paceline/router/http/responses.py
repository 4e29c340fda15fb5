"""Bodies of responses, as OpenAI defines them. They are written without the fields that were not set."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from paceline.router.http.told import Told

FinishReason = Literal["stop", "length"]


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class Error(BaseModel):
    """Every error, whatever it is about."""

    error: ErrorDetail


class Model(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class Models(BaseModel):
    object: Literal["list"]
    data: list[Model]


class Health(BaseModel):
    status: Literal["ok", "draining"]
    verifiers: int
    """That take requests."""


class Version(BaseModel):
    version: str
    protocol: str


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class SpeculativeDecoding(BaseModel):
    """vLLM's figures of one choice. Candidates form trees here, so there may be more of them than could be accepted."""

    mean_acceptance_length: float
    """Tokens per step, the target's own included."""
    draft_acceptance_rate: float
    acceptance_histogram: list[int]
    """[j] steps accepted j candidates."""
    num_spec_steps: int
    num_accepted_draft_tokens: int
    num_draft_tokens: int


class Metrics(BaseModel):
    speculative_decoding: SpeculativeDecoding | None = None


class TopLogProb(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogProb(TopLogProb):
    top_logprobs: list[TopLogProb]


class ChatLogProbs(BaseModel):
    content: list[TokenLogProb] | None
    refusal: None = None


class ChatMessage(BaseModel):
    role: Literal["assistant"]
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    index: int
    message: ChatMessage
    logprobs: ChatLogProbs | None
    finish_reason: FinishReason


class _Body(BaseModel):
    id: str
    created: int
    model: str


class ChatCompletion(_Body):
    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage
    metrics: Metrics | None = None


class Delta(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None


class ChatChunkChoice(BaseModel):
    index: int
    delta: Delta
    logprobs: ChatLogProbs | None = None
    finish_reason: FinishReason | None = None


class ChatChunk(_Body):
    """One event of a chat's stream."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatChunkChoice]
    usage: Usage | None = None
    metrics: Metrics | None = None
    paceline: Told | None = None


class CompletionLogProbs(BaseModel):
    text_offset: list[int]
    token_logprobs: list[float]
    tokens: list[str]
    top_logprobs: list[dict[str, float]]


class CompletionChoice(BaseModel):
    """A whole choice, and in a stream what it adds; only its last event has a finish_reason."""

    index: int
    text: str
    logprobs: CompletionLogProbs | None
    finish_reason: FinishReason | None


class Completion(_Body):
    object: Literal["text_completion"]
    choices: list[CompletionChoice]
    usage: Usage | None = None
    metrics: Metrics | None = None
    paceline: Told | None = None
