"""Failures in OpenAI's shape: the one table from reasons to HTTP status."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from fastapi import Response

from paceline.router.failures import NOT_LET_IN, VerifierError
from paceline.router.http.responses import Error, ErrorDetail
from paceline.wire.errors import PacelineError, Reason

CLIENT_CLOSED_REQUEST = 499
INTERNAL_MESSAGE = "internal error; the router's log says more"
DEFAULT_RETRY_AFTER_S = 1.0


@dataclass(frozen=True, slots=True)
class Failure:
    """What a client is told.

    Attributes:
        status: of HTTP.
        message, param, code: see OpenAI's API reference; `param` is the field of the body that is at fault.
        headers: of the response.
    """

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def type(self) -> str:
        if self.status == 404:
            return "not_found_error"
        if self.status == 429:
            return "rate_limit_error"
        if self.status < 500:
            return "invalid_request_error"
        return "service_unavailable_error" if self.status == 503 else "server_error"

    def to_json(self) -> str:
        detail = ErrorDetail(message=self.message, type=self.type, param=self.param, code=self.code)
        return Error(error=detail).model_dump_json()

    def to_response(self) -> Response:
        return Response(self.to_json(), self.status, dict(self.headers), "application/json")


INTERNAL = Failure(500, INTERNAL_MESSAGE, code="internal_error")

_STATUS = {
    Reason.EMPTY_PROMPT: 400,
    Reason.PROMPT_TOO_LONG: 400,
    Reason.OUT_OF_RANGE: 400,
    Reason.MALFORMED: 400,
    Reason.TOKEN_OUT_OF_VOCABULARY: 400,
    Reason.NO_CHAT_TEMPLATE: 400,
    Reason.UNKNOWN_DRAFTER: 400,
    Reason.INCOMPATIBLE_VERSION: 400,
    Reason.UNAUTHENTICATED: 401,
    Reason.PERMISSION_DENIED: 403,
    Reason.UNKNOWN_MODEL: 404,
    Reason.DUPLICATE_REQUEST: 409,
    Reason.OVERLOADED: 429,
    Reason.RATE_LIMITED: 429,
    Reason.LOADING: 503,
    Reason.DRAINING: 503,
    Reason.NO_VERIFIER: 503,
    Reason.VERIFIER_LOST: 503,
}
_CODES = {
    Reason.PROMPT_TOO_LONG: "context_length_exceeded",
    Reason.UNKNOWN_MODEL: "model_not_found",
    Reason.UNAUTHENTICATED: "invalid_api_key",
    Reason.RATE_LIMITED: "rate_limit_exceeded",
}
_NO_PARAMS = {"authorization", "tenant"}  # not of the body
# gRPC's own failures, which have no reason.
_GRPC_STATUS = {"DEADLINE_EXCEEDED": 504, "CANCELLED": CLIENT_CLOSED_REQUEST}
_GRPC_CODES = {504: "deadline_exceeded", CLIENT_CLOSED_REQUEST: "cancelled"}
_PARAMS = {
    "text": "prompt",
    "messages.role": "messages",
    "token_ids.ids": "prompt",
    "limits.stop": "stop",
    "limits.max_tokens": "max_tokens",
    "most_tokens": "max_tokens",
    "log_probs": "logprobs",
    "log_probs.top": "top_logprobs",
    "constraint": "response_format",
    "constraint.json_schema": "response_format",
    "speculation": "paceline",
    "speculation.drafters": "paceline.drafters",
    "speculation.max_nodes": "paceline.budget",
}


def failure_of(error: PacelineError | VerifierError) -> Failure:
    """What a client is told of a refusal, the router's own or a verifier's. What is nobody's business is INTERNAL."""
    if error.reason is None:
        assert isinstance(error, VerifierError)
        status = _GRPC_STATUS.get(error.code, 500)
        return Failure(status, error.message, code=_GRPC_CODES[status]) if status != 500 else INTERNAL
    if error.reason not in _STATUS or (isinstance(error, VerifierError) and error.reason in NOT_LET_IN):
        return INTERNAL
    status = _STATUS[error.reason]
    headers = {}
    if status in (429, 503):
        headers["Retry-After"] = str(math.ceil(error.retry_after_s or DEFAULT_RETRY_AFTER_S))
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    field = "speculation.drafters" if error.reason is Reason.UNKNOWN_DRAFTER else error.field
    param = None if field in _NO_PARAMS else _PARAMS.get(field, field.removeprefix("sampling.")) or None
    code = _CODES.get(error.reason, error.reason.value.lower())
    return Failure(status, error.message, param if status < 500 else None, code, headers)
