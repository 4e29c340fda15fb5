"""What a request asks of a verifier's protocol version."""

from __future__ import annotations

from collections.abc import Iterable

from paceline.router.member import Member
from paceline.v1 import generation_pb2
from paceline.wire.errors import PacelineError, Reason

ADDED_IN = {"log_probs": (1, 3), "constraint": (1, 3), "most_tokens": (1, 4)}
"""Fields of GenerateRequest that an older verifier would not know, and so ignore."""
_INSTEAD = {"most_tokens": "set limits.max_tokens"}  # it is set here, for requests that don't

SCORES_SINCE = (1, 4)  # Speculation.shadow, which an older verifier may ignore: it changes no answer


def scores(member: Member) -> bool:
    """Whether a verifier can score drafters that are not engaged."""
    return member.protocol >= SCORES_SINCE


def newer_fields(request: generation_pb2.GenerateRequest) -> tuple[str, ...]:
    """Those of them that the request has."""
    return tuple(name for name in ADDED_IN if request.HasField(name))  # type: ignore[arg-type]


def knows(member: Member, fields: Iterable[str]) -> bool:
    """Whether a verifier's protocol has all these fields."""
    return all(member.protocol >= ADDED_IN[name] for name in fields)


def unknown_to_all(verifiers: Iterable[Member], fields: Iterable[str]) -> PacelineError:
    """The refusal when none of these verifiers knows the fields."""
    name = max(fields, key=lambda field: ADDED_IN[field])
    needed = ".".join(map(str, ADDED_IN[name]))
    spoken = ", ".join(sorted({".".join(map(str, member.protocol)) for member in verifiers}))
    return PacelineError(
        Reason.INCOMPATIBLE_VERSION,
        f"{name} needs a verifier that speaks protocol {needed}; those of this model speak {spoken}; update them, or "
        f"{_INSTEAD.get(name, f'leave {name} out')}",
        field=name,
        value=spoken,
        limit=f"at least {needed}",
    )
