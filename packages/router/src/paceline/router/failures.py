"""What to do when a verifier's call fails."""

from __future__ import annotations

from enum import Enum

from paceline.wire.errors import Reason


class VerifierError(Exception):
    """A call to a verifier failed.

    Args:
        code: name of the gRPC status code.
        message: the status message.
        reason: of Paceline's error, None if the failure is gRPC's own (connection lost, deadline, …).
        value: what the error names as the offending value, if it names one.
        details: the serialized google.rpc.Status, to be passed on as it came.
        field: what the error names as the offending field, if it names one.
        retry_after_s: when to try again, if it says so.
    """

    def __init__(
        self,
        code: str,
        message: str,
        reason: Reason | None = None,
        value: str = "",
        details: bytes = b"",
        field: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = reason
        self.value = value
        self.details = details
        self.field = field
        self.retry_after_s = retry_after_s


class Verdict(Enum):
    LOST = "lost"
    """The verifier is gone or unwell: go on at another; this one isn't trusted until it announces itself."""
    BUSY = "busy"
    """It is well but full: go on at another, or wait."""
    DRAFTER_GONE = "drafter gone"
    """A drafter left between choice and call: choose again without it."""
    DRAFTER_ELSEWHERE = "drafter elsewhere"
    """A drafter that the client named isn't there; perhaps at another verifier."""
    REFUSED = "refused"
    """The request is at fault, or its time is up: the client gets the error as it is."""


# One that refuses this router is of no use to it, and no fault of the client's.
NOT_LET_IN = frozenset({Reason.UNAUTHENTICATED, Reason.PERMISSION_DENIED})
_LOST_REASONS = frozenset({Reason.INTERNAL, Reason.VERIFIER_LOST, Reason.LOADING, Reason.DRAINING}) | NOT_LET_IN
# Without a reason from Paceline: what gRPC reports when a peer dies, resets its streams or stops its server.
_LOST_CODES = frozenset({"UNAVAILABLE", "INTERNAL", "UNKNOWN", "CANCELLED", "ABORTED"})


def judge(error: VerifierError, *, may_drop: bool, named: bool, continuing: bool) -> Verdict:
    """What a failure means.

    Args:
        error: of the call.
        may_drop: the call had drafters, and they may be left out: because the router chose them, or because the
            answer has begun. Those that a client names for a new request are its to change.
        named: the client named the drafters.
        continuing: the request ran at a verifier before. Then its id may still be taken there, if it was not
            the verifier but the connection that broke; that passes as soon as the verifier notices.
    """
    if error.reason is None:
        return Verdict.LOST if error.code in _LOST_CODES else Verdict.REFUSED
    if error.reason in _LOST_REASONS:
        return Verdict.LOST
    if error.reason is Reason.OVERLOADED:
        return Verdict.BUSY
    if error.reason is Reason.DUPLICATE_REQUEST and continuing:
        return Verdict.BUSY
    if error.reason is Reason.UNKNOWN_DRAFTER and may_drop:
        return Verdict.DRAFTER_GONE
    if error.reason is Reason.UNKNOWN_DRAFTER and named and not continuing:
        return Verdict.DRAFTER_ELSEWHERE
    return Verdict.REFUSED
