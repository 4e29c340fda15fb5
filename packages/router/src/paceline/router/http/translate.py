"""A request's body as what the relay understands: one GenerateRequest for each choice."""

from __future__ import annotations

import json

from paceline.router.http.requests import (
    DEFAULT_COMPLETION_TOKENS,
    ChatRequest,
    Common,
    CompletionRequest,
    JsonObjectFormat,
    JsonSchemaFormat,
)
from paceline.v1 import generation_pb2, types_pb2
from paceline.wire.errors import PacelineError, Reason

ANY_OBJECT = '{"type":"object"}'
SEEDS = 2**64
SYSTEM = {"developer": "system"}


def chat_requests(body: ChatRequest, request_id: str, drawn_seed: int) -> list[generation_pb2.GenerateRequest]:
    """One for each choice. Raises MALFORMED for a schema that is no JSON."""
    request = _common(body)
    request.limits.max_tokens = body.max_completion_tokens or body.max_tokens or 0
    messages = [types_pb2.ChatMessage(role=SYSTEM.get(one.role, one.role), content=one.text) for one in body.messages]
    request.messages.messages.extend(messages)
    if body.logprobs:
        request.log_probs.CopyFrom(generation_pb2.LogProbsRequest(top=body.top_logprobs or 0))
    if isinstance(body.response_format, JsonObjectFormat):
        request.constraint.json_schema = ANY_OBJECT
    elif isinstance(body.response_format, JsonSchemaFormat):
        request.constraint.json_schema = _json_of(body.response_format)
    return _choices(request, body, request_id, drawn_seed)


def completion_requests(
    body: CompletionRequest, request_id: str, drawn_seed: int
) -> list[generation_pb2.GenerateRequest]:
    """One for each choice: those of the first prompt, then those of the second, and so on."""
    request = _common(body)
    request.limits.max_tokens = body.max_tokens or DEFAULT_COMPLETION_TOKENS
    if body.logprobs is not None:
        request.log_probs.CopyFrom(generation_pb2.LogProbsRequest(top=body.logprobs))
    requests: list[generation_pb2.GenerateRequest] = []
    for number, prompt in enumerate(body.prompts):
        if isinstance(prompt, str):
            request.text = prompt
        else:
            request.token_ids.CopyFrom(types_pb2.TokenIds(ids=prompt))
        part_id = request_id if len(body.prompts) == 1 else f"{request_id}-p{number}"
        requests += _choices(request, body, part_id, drawn_seed)
    return requests


def _common(body: Common) -> generation_pb2.GenerateRequest:
    wish = body.paceline
    steps = generation_pb2.StepsRequest() if wish is not None and wish.steps else None
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    return generation_pb2.GenerateRequest(
        model=body.model,
        sampling=types_pb2.Sampling(
            temperature=1.0 if body.temperature is None else body.temperature,
            top_p=body.top_p,
            top_k=max(0, body.top_k or 0),
            min_p=body.min_p,
        ),
        limits=types_pb2.Limits(stop=stop, ignore_eos=bool(body.ignore_eos)),
        speculation=types_pb2.Speculation(
            off=wish is not None and not wish.speculation,
            drafters=wish.drafters if wish else [],
            max_nodes=wish.budget if wish else 0,
        ),
        no_store=wish is not None and not wish.store,
        steps=steps,
    )


def _choices(
    request: generation_pb2.GenerateRequest, body: Common, request_id: str, drawn_seed: int
) -> list[generation_pb2.GenerateRequest]:
    """The i-th choice has seed + i, so that each can be asked for alone. A negative seed counts from 2^64 down."""
    seed = drawn_seed if body.seed is None else body.seed
    choices = []
    for index in range(body.num_choices):
        choice = generation_pb2.GenerateRequest()
        choice.CopyFrom(request)
        choice.sampling.seed = (seed + index) % SEEDS
        choice.request_id = request_id if body.num_choices == 1 else f"{request_id}-{index}"
        choices.append(choice)
    return choices


def _json_of(response_format: JsonSchemaFormat) -> str:
    try:
        return json.dumps(response_format.json_schema.schema_, allow_nan=False, separators=(",", ":"))
    except (ValueError, RecursionError) as error:
        raise PacelineError(
            Reason.MALFORMED,
            "response_format.json_schema.schema is no JSON document that can be passed on (NaN, Infinity, or too deep)",
            field="response_format.json_schema.schema",
        ) from error
