"""How long a client is willing to wait, as it says in its request."""

from __future__ import annotations

import re

from fastapi import Request

from paceline.router.http.requests import MAX_TIMEOUT_S
from paceline.wire.errors import PacelineError, Reason

HEADER = "x-request-timeout-ms"

_DIGITS = re.compile(r"[0-9]{1,9}")


async def timeout_of(request: Request) -> float | None:
    """Seconds from now that the header names, None without one. Raises MALFORMED or OUT_OF_RANGE.

    Nothing is made of what OpenAI's clients send by themselves (x-stainless-read-timeout): that is how long they wait
    for the next byte, and who has stopped waiting is noticed as it is.
    """
    given = request.headers.getlist(HEADER)
    if not given:
        return None
    limit = f"one whole number of milliseconds from 1 to {MAX_TIMEOUT_S * 1000:.0f}"
    milliseconds = int(given[0]) if len(given) == 1 and _DIGITS.fullmatch(given[0]) else 0
    if not 0 < milliseconds <= MAX_TIMEOUT_S * 1000:
        shown = ", ".join(given)[:50]
        raise PacelineError(
            Reason.OUT_OF_RANGE, f"{HEADER} is {shown!r}; it must be {limit}", field=HEADER, value=shown, limit=limit
        )
    return milliseconds / 1000


def sooner_of(*timeouts_s: float | None) -> float | None:
    """The shortest of those that are there."""
    return min((one for one in timeouts_s if one is not None), default=None)
