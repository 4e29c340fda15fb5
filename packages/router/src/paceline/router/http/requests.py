"""Bodies of requests, as OpenAI defines them, with what vLLM's users know besides and an object of our own.

What is known and not supported is accepted where it asks for nothing, and refused by name otherwise.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from paceline.router.checks import MAX_DRAFTERS, MAX_MESSAGES, MAX_TEMPERATURE, MAX_TOKEN_IDS, MAX_TOP_LOG_PROBS
from paceline.router.http.fields import Name, Only, Seed, Stop, Strict, Text, TokenId, mismatch, text_part_only

MAX_N = 16
MAX_PROMPTS = 64
MAX_CHOICES = 64
MAX_COMPLETION_LOGPROBS = 5
MAX_TIMEOUT_S = 24 * 3600.0
DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's


class StreamOptions(Strict):
    include_usage: bool | None = False
    """Whether the last chunk tells the number of tokens."""
    include_obfuscation: Annotated[Any, Only(False)] = None


class Paceline(Strict):
    """What only Paceline has. None of it changes the text."""

    drafters: list[Name] = Field(default=[], max_length=MAX_DRAFTERS)
    """Ids or names, instead of the router's choice."""
    speculation: bool = True
    """False decodes one token per step."""
    budget: int = Field(default=0, ge=0, le=2**32 - 1)
    """Most candidate tokens verified in one step; 0 is the verifier's default."""
    store: bool = True
    """False keeps the request out of drafters' memory and the trainer's buffer."""
    timeout_s: float | None = Field(default=None, gt=0.0, le=MAX_TIMEOUT_S)
    """Seconds after which nobody needs the answer any more."""
    steps: bool = False
    """Whether a stream tells what each step verified: `paceline` in its chunks."""

    @model_validator(mode="after")
    def _drafters_or_none(self) -> Paceline:
        if self.drafters and not self.speculation:
            raise mismatch("paceline.drafters", "paceline.speculation is false and there are paceline.drafters")
        return self


class Common(Strict):
    """What both kinds of requests have."""

    model: Annotated[Name, Field(min_length=1)]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    seed: Seed | None = None
    """Same seed, same text. The i-th of n choices has seed + i."""
    stop: Stop = None
    n: int | None = Field(default=1, ge=1, le=MAX_N)
    temperature: float | None = Field(default=1.0, ge=0.0, le=MAX_TEMPERATURE)
    top_p: float | None = Field(default=None, gt=0.0, le=1.0)
    top_k: int | None = Field(default=None, ge=-1, le=2**31 - 1)
    """Keep so many of the likeliest tokens; -1 and 0 keep all."""
    min_p: float | None = Field(default=None, ge=0.0, lt=1.0)
    ignore_eos: bool | None = False
    max_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKEN_IDS)
    user: Annotated[str, Field(max_length=512)] | None = None
    """Taken and not used."""
    paceline: Paceline | None = None

    frequency_penalty: Annotated[Any, Only(0, 0.0)] = None
    presence_penalty: Annotated[Any, Only(0, 0.0)] = None
    repetition_penalty: Annotated[Any, Only(1, 1.0)] = None
    logit_bias: Annotated[Any, Only({})] = None
    min_tokens: Annotated[Any, Only(0)] = None

    @model_validator(mode="after")
    def _options_of_streams(self) -> Common:
        if self.stream_options is not None and not self.stream:
            raise mismatch("stream_options", "stream_options is only for stream: true")
        if self.paceline is not None and self.paceline.steps and not self.stream:
            raise mismatch("paceline.steps", "paceline.steps is only for stream: true")
        return self

    @property
    def num_choices(self) -> int:
        """Of each prompt."""
        return self.n or 1


class TextPart(Strict):
    type: Literal["text"]
    text: Text


Part = Annotated[TextPart, BeforeValidator(text_part_only)]
Parts = Annotated[list[Part], Field(max_length=MAX_MESSAGES)]


class Message(Strict):
    """One message. Parts of a content are joined by line breaks; a developer is what templates call system."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Parts

    # An answer's message may be sent back as it came.
    name: Annotated[Any, Only()] = None
    refusal: Annotated[Any, Only()] = None
    annotations: Annotated[Any, Only([])] = None
    audio: Annotated[Any, Only()] = None
    function_call: Annotated[Any, Only()] = None
    tool_calls: Annotated[Any, Only([])] = None

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class JsonSchema(Strict):
    name: Name
    schema_: dict[str, Any] = Field(alias="schema")
    description: Text | None = None
    strict: bool | None = None
    """Taken and not used: the schema always holds."""


class TextFormat(Strict):
    type: Literal["text"]


class JsonObjectFormat(Strict):
    type: Literal["json_object"]


class JsonSchemaFormat(Strict):
    type: Literal["json_schema"]
    json_schema: JsonSchema


class ChatRequest(Common):
    """The body of POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKEN_IDS)
    logprobs: bool | None = False
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOG_PROBS)
    response_format: Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")] | None = (
        None
    )

    audio: Annotated[Any, Only()] = None
    function_call: Annotated[Any, Only("none")] = None
    functions: Annotated[Any, Only([])] = None
    metadata: Annotated[Any, Only({})] = None
    modalities: Annotated[Any, Only(["text"])] = None
    moderation: Annotated[Any, Only()] = None
    parallel_tool_calls: Annotated[Any, Only(False, True)] = None
    prediction: Annotated[Any, Only()] = None
    prompt_cache_key: Annotated[Any, Only()] = None
    prompt_cache_options: Annotated[Any, Only()] = None
    prompt_cache_retention: Annotated[Any, Only()] = None
    reasoning_effort: Annotated[Any, Only("none")] = None
    safety_identifier: Annotated[Any, Only()] = None
    service_tier: Annotated[Any, Only("auto", "default")] = None
    store: Annotated[Any, Only(False)] = None
    tool_choice: Annotated[Any, Only("none", "auto")] = None
    tools: Annotated[Any, Only([])] = None
    verbosity: Annotated[Any, Only("medium")] = None
    web_search_options: Annotated[Any, Only()] = None

    @model_validator(mode="after")
    def _that_fit_together(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise mismatch("top_logprobs", "top_logprobs is only for logprobs: true")
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            raise mismatch("max_tokens", "max_tokens and max_completion_tokens differ; set one of them")
        return self


TokenIds = Annotated[list[TokenId], Field(min_length=1, max_length=MAX_TOKEN_IDS)]
Texts = Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS)]
ManyTokenIds = Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS)]


class CompletionRequest(Common):
    """The body of POST /v1/completions."""

    prompt: Text | Texts | TokenIds | ManyTokenIds
    logprobs: int | None = Field(default=None, ge=0, le=MAX_COMPLETION_LOGPROBS)

    best_of: Annotated[Any, Only(1)] = None
    echo: Annotated[Any, Only(False)] = None
    suffix: Annotated[Any, Only("")] = None

    @model_validator(mode="after")
    def _not_too_many(self) -> CompletionRequest:
        if (count := len(self.prompts) * self.num_choices) > MAX_CHOICES:
            raise mismatch("n", f"n times the number of prompts is {count}; it must be at most {MAX_CHOICES}")
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each prompt as text or as token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [[one for one in self.prompt if isinstance(one, int)]]
        return [one for one in self.prompt if not isinstance(one, int)]
