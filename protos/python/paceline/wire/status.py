"""Domain errors to gRPC status and back: the one table."""

from __future__ import annotations

from typing import NoReturn

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

from paceline.wire.errors import DOMAIN, PacelineError, Reason

DETAILS_KEY = "grpc-status-details-bin"

CODES: dict[Reason, grpc.StatusCode] = {
    Reason.EMPTY_PROMPT: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.PROMPT_TOO_LONG: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.OUT_OF_RANGE: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.MALFORMED: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.TOKEN_OUT_OF_VOCABULARY: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.UNKNOWN_DRAFTER: grpc.StatusCode.NOT_FOUND,
    Reason.UNKNOWN_MODEL: grpc.StatusCode.NOT_FOUND,
    Reason.UNKNOWN_REQUEST: grpc.StatusCode.NOT_FOUND,
    Reason.UNKNOWN_MEMBER: grpc.StatusCode.NOT_FOUND,
    Reason.UNKNOWN_POLICY: grpc.StatusCode.NOT_FOUND,
    Reason.DUPLICATE_REQUEST: grpc.StatusCode.ALREADY_EXISTS,
    Reason.NO_CHAT_TEMPLATE: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.UNKNOWN_SESSION: grpc.StatusCode.NOT_FOUND,
    Reason.WRONG_DIGEST: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.TREE_TOO_LARGE: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.TREE_TOO_DEEP: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.TREE_MALFORMED: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.QUARANTINED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.INCOMPATIBLE_VERSION: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Reason.PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
    Reason.DUPLICATE_DRAFTER: grpc.StatusCode.ALREADY_EXISTS,
    Reason.OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.RATE_LIMITED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.LOADING: grpc.StatusCode.UNAVAILABLE,
    Reason.DRAINING: grpc.StatusCode.UNAVAILABLE,
    Reason.NO_VERIFIER: grpc.StatusCode.UNAVAILABLE,
    Reason.VERIFIER_LOST: grpc.StatusCode.UNAVAILABLE,
    Reason.UNKNOWN_REVISION: grpc.StatusCode.NOT_FOUND,
    Reason.HASH_MISMATCH: grpc.StatusCode.DATA_LOSS,
    Reason.STORAGE_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.UNUSABLE_REVISION: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.UNSIGNED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.VOCABULARY_MISMATCH: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.INTERNAL: grpc.StatusCode.INTERNAL,
}


def _packed(message: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def encode_details(error: PacelineError) -> bytes:
    """The serialized google.rpc.Status that travels in the trailers."""
    details = [
        _packed(error_details_pb2.ErrorInfo(reason=error.reason.value, domain=DOMAIN, metadata=error.metadata()))
    ]
    if error.retry_after_s is not None:
        delay = duration_pb2.Duration(nanos=0)
        delay.FromMicroseconds(int(error.retry_after_s * 1e6))
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    code = getattr(code_pb2, CODES[error.reason].name)
    return status_pb2.Status(code=code, message=error.message, details=details).SerializeToString()


async def abort(context: grpc.aio.ServicerContext, error: PacelineError) -> NoReturn:
    """Ends the call with the error's code, message and ErrorInfo."""
    await context.abort(CODES[error.reason], error.message, trailing_metadata=((DETAILS_KEY, encode_details(error)),))
    raise AssertionError("abort returned")


def from_rpc_error(rpc_error: grpc.RpcError) -> PacelineError | None:
    """The PacelineError a peer sent, or None if the failure is gRPC's own (connection lost, deadline, cancel)."""
    trailers = getattr(rpc_error, "trailing_metadata", lambda: None)() or ()
    for key, value in trailers:
        if key != DETAILS_KEY:
            continue
        try:
            return _from_status(status_pb2.Status.FromString(value))
        except (DecodeError, ValueError):  # whatever is there, it is no refusal of a Paceline service
            return None
    return None


def _from_status(status: status_pb2.Status) -> PacelineError | None:
    info = error_details_pb2.ErrorInfo()
    retry = error_details_pb2.RetryInfo()
    retry_after_s: float | None = None
    found = False
    for detail in status.details:
        if detail.Unpack(info):
            found = True
        elif detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToMicroseconds() / 1e6
    if not found or info.domain != DOMAIN or info.reason not in Reason.__members__:
        return None
    data = info.metadata
    return PacelineError(
        Reason(info.reason),
        status.message,
        field=data.get("field", ""),
        value=data.get("value"),
        limit=data.get("limit"),
        retry_after_s=retry_after_s,
    )
