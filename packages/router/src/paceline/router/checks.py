"""Bounds on requests. A verifier checks again, with what only it knows: vocabulary and context length."""

from __future__ import annotations

import math

from paceline.v1 import generation_pb2, types_pb2
from paceline.wire.errors import PacelineError, Reason, out_of_range

MAX_NAME = 200
MAX_TEXT_BYTES = 4 * 1024 * 1024
MAX_MESSAGES = 1024
MAX_TOKEN_IDS = 1024 * 1024
MAX_STOPS = 16
MAX_STOP_LENGTH = 256
MAX_DRAFTERS = 16
MAX_TEMPERATURE = 100.0
MAX_TOP_LOG_PROBS = 20
MAX_SCHEMA_BYTES = 64 * 1024
MAX_TOLD_NODES = 256


def check_request(request: generation_pb2.GenerateRequest) -> None:
    """Raises EMPTY_PROMPT, PROMPT_TOO_LONG, OUT_OF_RANGE or MALFORMED, naming field, value and limit."""
    for name in ("request_id", "tenant", "model"):
        check_length(name, getattr(request, name), MAX_NAME)
    _check_prompt(request)
    _check_sampling(request.sampling)
    _check_stop(request.limits)
    _check_speculation(request.speculation)
    if request.log_probs.top > MAX_TOP_LOG_PROBS:
        raise out_of_range("log_probs.top", request.log_probs.top, f"at most {MAX_TOP_LOG_PROBS}")
    if request.steps.max_nodes > MAX_TOLD_NODES:
        raise out_of_range("steps.max_nodes", request.steps.max_nodes, f"at most {MAX_TOLD_NODES}")
    _check_constraint(request)
    _check_count("committed.ids", len(request.committed.ids), MAX_TOKEN_IDS)


def check_length(field: str, value: str, limit: int) -> None:
    """Raises OUT_OF_RANGE for a longer text."""
    if len(value) > limit:
        raise out_of_range(field, f"{len(value)} characters long", f"at most {limit} characters")


def _check_prompt(request: generation_pb2.GenerateRequest) -> None:
    kind = request.WhichOneof("prompt")
    size = 0
    if kind == "text":
        size = len(request.text.encode())
        _check_text(kind, size)
    elif kind == "messages":
        messages = request.messages.messages
        _check_count("messages", len(messages), MAX_MESSAGES)
        for message in messages:
            check_length("messages.role", message.role, MAX_NAME)
        _check_text(kind, sum(len(message.content.encode()) for message in messages))
        size = len(messages)
    elif kind == "token_ids":
        size = len(request.token_ids.ids)
        _check_count("token_ids.ids", size, MAX_TOKEN_IDS)
    if size == 0:
        raise PacelineError(
            Reason.EMPTY_PROMPT,
            "the prompt is empty; set one of text, messages and token_ids, with something in it",
            field=kind or "prompt",
            value=0,
            limit="at least 1",
        )


def _check_text(field: str, num_bytes: int) -> None:
    if num_bytes > MAX_TEXT_BYTES:
        raise PacelineError(
            Reason.PROMPT_TOO_LONG,
            f"{field} has {num_bytes} bytes; it must have at most {MAX_TEXT_BYTES}; shorten it",
            field=field,
            value=num_bytes,
            limit=MAX_TEXT_BYTES,
        )


def _check_count(field: str, count: int, limit: int) -> None:
    if count > limit:
        raise out_of_range(field, f"{count} entries long", f"at most {limit} entries")


def _check_sampling(sampling: types_pb2.Sampling) -> None:
    temperature = sampling.temperature
    if not (math.isfinite(temperature) and 0.0 <= temperature <= MAX_TEMPERATURE):
        raise out_of_range("sampling.temperature", temperature, f"in [0, {MAX_TEMPERATURE:g}]")
    if sampling.HasField("top_p") and not 0.0 < sampling.top_p <= 1.0:
        raise out_of_range("sampling.top_p", sampling.top_p, "in (0, 1]")
    if sampling.HasField("min_p") and not 0.0 <= sampling.min_p < 1.0:
        raise out_of_range("sampling.min_p", sampling.min_p, "in [0, 1)")


def _check_stop(limits: types_pb2.Limits) -> None:
    _check_count("limits.stop", len(limits.stop), MAX_STOPS)
    for stop in limits.stop:
        if not stop:
            raise out_of_range("limits.stop", "an empty string", "strings of at least one character")
        check_length("limits.stop", stop, MAX_STOP_LENGTH)


def _check_speculation(speculation: types_pb2.Speculation) -> None:
    _check_count("speculation.drafters", len(speculation.drafters), MAX_DRAFTERS)
    for name in speculation.drafters:
        check_length("speculation.drafters", name, MAX_NAME)
    if speculation.off and speculation.drafters:
        raise PacelineError(
            Reason.MALFORMED,
            "speculation.off is true and speculation.drafters names some; set one of them",
            field="speculation",
        )


def _check_constraint(request: generation_pb2.GenerateRequest) -> None:
    if not request.HasField("constraint"):
        return
    if not request.constraint.HasField("json_schema"):
        why = "constraint is empty; set constraint.json_schema, or leave it out"
        raise PacelineError(Reason.MALFORMED, why, field="constraint")
    if request.limits.ignore_eos:
        raise PacelineError(
            Reason.MALFORMED,
            "limits.ignore_eos is true and constraint is set, whose document ends the answer; set one of them",
            field="limits.ignore_eos",
        )
    size = len(request.constraint.json_schema.encode())
    if size > MAX_SCHEMA_BYTES:
        raise out_of_range("constraint.json_schema", f"{size} bytes long", f"at most {MAX_SCHEMA_BYTES} bytes")
