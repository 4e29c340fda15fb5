"""From protobuf to the domain, and what drafters are told; every bound on a request is checked here."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from paceline.v1 import drafting_pb2, generation_pb2, types_pb2
from paceline.verifier import session as domain
from paceline.verifier.request import Request, Speculation
from paceline.verifier.sampling import Sampling
from paceline.verifier.steps import DEFAULT_TOLD_NODES, MAX_TOLD_NODES
from paceline.wire.errors import PacelineError, Reason, out_of_range

MAX_NAME = 200
MAX_TEXT = 4 * 1024 * 1024
MAX_MESSAGES = 1024
MAX_STOPS = 16
MAX_STOP_LENGTH = 256
MAX_DRAFTERS = 16
MAX_SHADOWS = 16
MAX_TEMPERATURE = 100.0
MAX_TOP_LOG_PROBS = 20
MAX_SCHEMA_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """What this verifier accepts."""

    vocab_size: int
    context_length: int
    max_tokens: int
    default_max_tokens: int
    max_nodes: int


def request_from_proto(
    message: generation_pb2.GenerateRequest,
    limits: Limits,
    tokenize: Callable[[str], list[int]],
    apply_chat_template: Callable[[list[dict[str, str]]], list[int]],
) -> Request:
    """The checked request.

    Raises:
        PacelineError: with the field, its value and the limit.
    """
    for name in ("request_id", "tenant", "model"):
        _check_length(name, getattr(message, name), MAX_NAME)
    sampling = _sampling(message.sampling)
    stop = _stop(message.limits.stop)
    prompt = _prompt(message, tokenize, apply_chat_template)
    _check_tokens("prompt", prompt, limits.vocab_size)
    if len(prompt) >= limits.context_length:
        raise PacelineError(
            Reason.PROMPT_TOO_LONG,
            f"the prompt has {len(prompt)} tokens; with at least one to generate it must have fewer than "
            f"{limits.context_length}; shorten it, or start the verifier with a greater --context-length",
            field="prompt",
            value=len(prompt),
            limit=limits.context_length - 1,
        )
    max_tokens = _max_tokens(message, len(prompt), limits)
    committed = tuple(message.committed.ids)
    _check_tokens("committed", committed, limits.vocab_size)
    if len(committed) > max_tokens:
        raise out_of_range("committed", f"{len(committed)} tokens", f"at most max_tokens ({max_tokens})")
    return Request(
        request_id=message.request_id or secrets.token_hex(8),
        prompt=tuple(prompt),
        sampling=sampling,
        max_tokens=max_tokens,
        stop=stop,
        ignore_eos=message.limits.ignore_eos,
        speculation=speculation_from_proto(message.speculation, limits.max_nodes),
        tenant=message.tenant,
        no_store=message.no_store,
        committed=committed,
        segment_tokens=message.segment_tokens,
        log_probs=_log_probs(message),
        json_schema=_json_schema(message),
        steps=_steps(message),
    )


def speculation_from_proto(message: types_pb2.Speculation, max_nodes: int) -> Speculation:
    """Checked; `off` and named drafters exclude each other."""
    if len(message.drafters) > MAX_DRAFTERS:
        raise out_of_range("speculation.drafters", f"{len(message.drafters)} entries", f"at most {MAX_DRAFTERS}")
    for name in message.drafters:
        _check_length("speculation.drafters", name, MAX_NAME)
    if message.max_nodes > max_nodes:
        raise out_of_range("speculation.max_nodes", message.max_nodes, f"at most {max_nodes}")
    if message.shadow > MAX_SHADOWS:
        raise out_of_range("speculation.shadow", message.shadow, f"at most {MAX_SHADOWS}")
    if message.off:
        if message.drafters:
            raise PacelineError(
                Reason.MALFORMED,
                "speculation.off is true and speculation.drafters names some; set one of them",
                field="speculation",
            )
        return Speculation((), message.max_nodes, message.shadow)
    return Speculation(tuple(message.drafters) or None, message.max_nodes, message.shadow)


def _sampling(message: types_pb2.Sampling) -> Sampling:
    temperature = message.temperature
    if not (math.isfinite(temperature) and 0.0 <= temperature <= MAX_TEMPERATURE):
        raise out_of_range("sampling.temperature", temperature, f"in [0, {MAX_TEMPERATURE:g}]")
    top_p = message.top_p if message.HasField("top_p") else 1.0
    if not 0.0 < top_p <= 1.0:
        raise out_of_range("sampling.top_p", top_p, "in (0, 1]")
    min_p = message.min_p if message.HasField("min_p") else 0.0
    if not 0.0 <= min_p < 1.0:
        raise out_of_range("sampling.min_p", min_p, "in [0, 1)")
    seed = message.seed if message.HasField("seed") else secrets.randbits(64)
    return Sampling(temperature, message.top_k, top_p, min_p, seed)


def _log_probs(message: generation_pb2.GenerateRequest) -> int | None:
    if not message.HasField("log_probs"):
        return None
    if message.log_probs.top > MAX_TOP_LOG_PROBS:
        raise out_of_range("log_probs.top", message.log_probs.top, f"at most {MAX_TOP_LOG_PROBS}")
    return message.log_probs.top


def _steps(message: generation_pb2.GenerateRequest) -> int | None:
    if not message.HasField("steps"):
        return None
    if message.steps.max_nodes > MAX_TOLD_NODES:
        raise out_of_range("steps.max_nodes", message.steps.max_nodes, f"at most {MAX_TOLD_NODES}")
    return message.steps.max_nodes or DEFAULT_TOLD_NODES


def _json_schema(message: generation_pb2.GenerateRequest) -> str | None:
    if not message.HasField("constraint"):
        return None
    if not message.constraint.HasField("json_schema"):
        why = "constraint is empty; set constraint.json_schema, or leave it out"
        raise PacelineError(Reason.MALFORMED, why, field="constraint")
    if message.limits.ignore_eos:
        raise PacelineError(
            Reason.MALFORMED,
            "limits.ignore_eos is true and constraint is set, whose document ends the answer; set one of them",
            field="limits.ignore_eos",
        )
    size = len(message.constraint.json_schema.encode())
    if size > MAX_SCHEMA_BYTES:
        raise out_of_range("constraint.json_schema", f"{size} bytes long", f"at most {MAX_SCHEMA_BYTES} bytes")
    return message.constraint.json_schema


def _stop(stops: Sequence[str]) -> tuple[str, ...]:
    if len(stops) > MAX_STOPS:
        raise out_of_range("limits.stop", f"{len(stops)} strings", f"at most {MAX_STOPS}")
    for stop in stops:
        if not stop:
            raise out_of_range("limits.stop", "an empty string", "strings of at least one character")
        _check_length("limits.stop", stop, MAX_STOP_LENGTH)
    return tuple(stops)


def _prompt(
    message: generation_pb2.GenerateRequest,
    tokenize: Callable[[str], list[int]],
    apply_chat_template: Callable[[list[dict[str, str]]], list[int]],
) -> list[int]:
    kind = message.WhichOneof("prompt")
    prompt: list[int] = []
    if kind == "text":
        _check_length("text", message.text, MAX_TEXT)
        prompt = tokenize(message.text) if message.text else []
    elif kind == "messages":
        messages = message.messages.messages
        if len(messages) > MAX_MESSAGES:
            raise out_of_range("messages", f"{len(messages)} messages", f"at most {MAX_MESSAGES}")
        _check_length("messages", "".join(item.role + item.content for item in messages), MAX_TEXT)
        if messages:
            prompt = apply_chat_template([{"role": item.role, "content": item.content} for item in messages])
    elif kind == "token_ids":
        prompt = list(message.token_ids.ids)
    if not prompt:
        raise PacelineError(
            Reason.EMPTY_PROMPT,
            "the prompt is empty; set text, messages or token_ids to at least one token",
            field=kind or "prompt",
            value=0,
            limit="at least 1 token",
        )
    return prompt


def _max_tokens(message: generation_pb2.GenerateRequest, prompt_length: int, limits: Limits) -> int:
    asked = message.limits.max_tokens
    room = limits.context_length - prompt_length
    if message.HasField("most_tokens") and message.most_tokens == 0:
        raise out_of_range("most_tokens", 0, "at least 1")
    if asked == 0:
        most = message.most_tokens or limits.max_tokens
        return min(limits.default_max_tokens, limits.max_tokens, room, most)
    if asked > limits.max_tokens:
        raise out_of_range("limits.max_tokens", asked, f"at most {limits.max_tokens}")
    if asked > room:
        limit = f"at most {room}: the context holds {limits.context_length} tokens and the prompt has {prompt_length}"
        raise out_of_range("limits.max_tokens", asked, limit)
    return asked


def _check_length(field: str, value: str, limit: int) -> None:
    if len(value) > limit:
        raise out_of_range(field, f"{len(value)} characters long", f"at most {limit} characters")


def _check_tokens(field: str, tokens: Sequence[int], vocab_size: int) -> None:
    if tokens and max(tokens) >= vocab_size:
        raise PacelineError(
            Reason.TOKEN_OUT_OF_VOCABULARY,
            f"{field} has token id {max(tokens)}; ids must be less than the vocabulary's {vocab_size}",
            field=field,
            value=max(tokens),
            limit=vocab_size,
        )


def opened_message(
    session: domain.Session, memory_key: bytes, max_nodes: int, least_value: float
) -> drafting_pb2.SessionOpened:
    """What a drafter is told of a session it is to serve, as it stands now."""
    sampling = session.request.sampling
    return drafting_pb2.SessionOpened(
        session_id=session.session_id,
        tokens=session.tokens,
        prompt_tokens=len(session.request.prompt),
        digest=session.digest,
        sampling=types_pb2.Sampling(
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            seed=sampling.seed,
        ),
        memory_key=memory_key,
        max_nodes=max_nodes,
        least_value=least_value,
    )


def shadow_message(
    session: domain.Session, session_id: int, length: int, memory_key: bytes, max_nodes: int, least_value: float
) -> drafting_pb2.SessionOpened:
    """The same of a shadow session on its text, as it stood at a length within the answer."""
    opened = opened_message(session, memory_key, max_nodes, least_value)
    digest = session.digest_at(length)
    assert digest is not None
    opened.session_id, opened.digest, opened.shadow = session_id, digest, True
    del opened.tokens[length:]
    return opened


def top_k_message(k: int, tokens: Sequence[int], rows: Sequence[Sequence[int]]) -> drafting_pb2.TopK:
    return drafting_pb2.TopK(k=k, tokens=tokens, successors=[token for row in rows for token in row])
