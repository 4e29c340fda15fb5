"""What can go wrong between services, in words that a program can branch on.

One exception type carries a `Reason`; clients branch on the reason, people read the message. Pure code raises
`PacelineError`; `paceline.wire.status` turns it into a gRPC status with one `google.rpc.ErrorInfo` and back.
"""

from __future__ import annotations

from enum import StrEnum

DOMAIN = "paceline"


class Reason(StrEnum):
    """Why a request or message was refused. The value is what crosses the wire."""

    # the request is wrong
    EMPTY_PROMPT = "EMPTY_PROMPT"
    PROMPT_TOO_LONG = "PROMPT_TOO_LONG"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    MALFORMED = "MALFORMED"
    TOKEN_OUT_OF_VOCABULARY = "TOKEN_OUT_OF_VOCABULARY"
    UNKNOWN_DRAFTER = "UNKNOWN_DRAFTER"
    UNKNOWN_MODEL = "UNKNOWN_MODEL"
    UNKNOWN_REQUEST = "UNKNOWN_REQUEST"
    UNKNOWN_MEMBER = "UNKNOWN_MEMBER"
    UNKNOWN_POLICY = "UNKNOWN_POLICY"
    DUPLICATE_REQUEST = "DUPLICATE_REQUEST"
    NO_CHAT_TEMPLATE = "NO_CHAT_TEMPLATE"
    # a draft can't be used
    UNKNOWN_SESSION = "UNKNOWN_SESSION"
    WRONG_DIGEST = "WRONG_DIGEST"
    TREE_TOO_LARGE = "TREE_TOO_LARGE"
    TREE_TOO_DEEP = "TREE_TOO_DEEP"
    TREE_MALFORMED = "TREE_MALFORMED"
    QUARANTINED = "QUARANTINED"
    # who you are
    INCOMPATIBLE_VERSION = "INCOMPATIBLE_VERSION"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    DUPLICATE_DRAFTER = "DUPLICATE_DRAFTER"
    # not now
    OVERLOADED = "OVERLOADED"
    RATE_LIMITED = "RATE_LIMITED"
    LOADING = "LOADING"
    DRAINING = "DRAINING"
    NO_VERIFIER = "NO_VERIFIER"
    VERIFIER_LOST = "VERIFIER_LOST"
    # artifacts
    UNKNOWN_REVISION = "UNKNOWN_REVISION"
    HASH_MISMATCH = "HASH_MISMATCH"
    STORAGE_FULL = "STORAGE_FULL"
    UNUSABLE_REVISION = "UNUSABLE_REVISION"
    UNSIGNED = "UNSIGNED"
    VOCABULARY_MISMATCH = "VOCABULARY_MISMATCH"
    # ours
    INTERNAL = "INTERNAL"


class PacelineError(Exception):
    """A refusal with its reason.

    Args:
        reason: what a program branches on.
        message: what a person reads: names the field, the value, the limit, and what to do.
        field, value, limit: the same for programs; sent as ErrorInfo metadata when given.
        retry_after_s: when to try again, for reasons that pass by themselves.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        field: str = "",
        value: object = None,
        limit: object = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.field = field
        self.value = value
        self.limit = limit
        self.retry_after_s = retry_after_s

    def metadata(self) -> dict[str, str]:
        """field, value and limit as strings, cut to a length that is safe in a header."""
        pairs = {"field": self.field or None, "value": self.value, "limit": self.limit}
        return {key: str(item)[:200] for key, item in pairs.items() if item is not None}


def out_of_range(field: str, value: object, limit: str) -> PacelineError:
    """The commonest refusal: a number outside its bounds. `limit` reads like "in (0, 1]" or "at most 4096"."""
    return PacelineError(
        Reason.OUT_OF_RANGE, f"{field} is {value}; it must be {limit}", field=field, value=value, limit=limit
    )
