"""What a tenant may use, and uses. Time is an argument."""

from __future__ import annotations

from dataclasses import dataclass

from paceline.router.access.bucket import Bucket
from paceline.wire.errors import PacelineError, Reason, out_of_range

BUSY_RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one tenant; None is no limit.

    Attributes:
        requests_at_once: requests in progress; each choice of a request is one.
        requests_per_minute: that may begin; after a pause so many at once.
        tokens_per_minute: that may be generated. They are counted as they come, so what runs is never cut: what goes
            beyond is missing later.
        prompt_bytes: of one prompt; a token id counts as 4.
        prompt_tokens: of one prompt.
        max_tokens: that one request may ask for, and gets at most if it doesn't say.
    """

    requests_at_once: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    prompt_bytes: int | None = None
    prompt_tokens: int | None = None
    max_tokens: int | None = None


class Quota:
    """Counts what one tenant uses, and refuses what is too much.

    Attributes:
        running: requests in progress.
        num_requests, num_refused, num_tokens: since the router started: let in, refused for being too many, generated.
    """

    def __init__(self, tenant: str, limits: Limits, now_s: float) -> None:
        self.tenant = tenant
        self.limits = limits
        self.running = 0
        self.num_requests = 0
        self.num_refused = 0
        self.num_tokens = 0
        self._requests = _bucket(None, limits.requests_per_minute, now_s)
        self._tokens = _bucket(None, limits.tokens_per_minute, now_s)

    def limit(self, limits: Limits, now_s: float) -> None:
        """Other limits from now on, see Bucket.resize."""
        self._requests = _bucket(self._requests, limits.requests_per_minute, now_s)
        self._tokens = _bucket(self._tokens, limits.tokens_per_minute, now_s)
        self.limits = limits

    def enter(self, count: int, now_s: float) -> None:
        """So many requests begin, or none; `leave` is owed. Raises RATE_LIMITED; OUT_OF_RANGE for what never fits."""
        try:
            self._check(count, now_s)
        except PacelineError:
            self.num_refused += count
            raise
        if self._requests is not None:
            self._requests.take(count, now_s)
        self.running += count
        self.num_requests += count

    def leave(self, count: int) -> None:
        """They are over, however they ended."""
        self.running -= count

    def forget(self, count: int, now_s: float) -> None:
        """They came to nothing for a reason that isn't the tenant's; `leave` is still owed."""
        if self._requests is not None:
            self._requests.give_back(count, now_s)
        self.num_requests -= count

    def charge(self, num_tokens: int, now_s: float) -> None:
        """Tokens came."""
        self.num_tokens += num_tokens
        if self._tokens is not None:
            self._tokens.take(num_tokens, now_s)

    def check_prompt(self, field: str, num_bytes: int, num_tokens: int) -> None:
        """Raises PROMPT_TOO_LONG. Either size is 0 while it isn't known."""
        for unit, size, limit in (
            ("bytes", num_bytes, self.limits.prompt_bytes),
            ("tokens", num_tokens, self.limits.prompt_tokens),
        ):
            if limit is not None and size > limit:
                raise PacelineError(
                    Reason.PROMPT_TOO_LONG,
                    f"the prompt has {size} {unit}; tenant {self.tenant!r} may send {limit}; shorten it",
                    field=field,
                    value=size,
                    limit=limit,
                )

    def check_max_tokens(self, asked: int) -> None:
        """Raises OUT_OF_RANGE."""
        limit = self.limits.max_tokens
        if limit is not None and asked > limit:
            raise out_of_range("limits.max_tokens", asked, f"at most {limit} for tenant {self.tenant!r}")

    def _check(self, count: int, now_s: float) -> None:
        limits = self.limits
        at_once = limits.requests_at_once
        for when, limit in (("at once", at_once), ("a minute", limits.requests_per_minute)):
            if limit is not None and count > limit:
                allowed = f"at most {limit}: tenant {self.tenant!r} may have so many {when}"
                raise out_of_range("n", f"{count} choices, each a request", allowed)
        if at_once is not None and self.running + count > at_once:
            raise self._too_many(f"has {self.running} requests in progress", at_once, BUSY_RETRY_S)
        for bucket, amount, what in ((self._requests, count, "requests"), (self._tokens, 1, "tokens")):
            if bucket is not None and (wait_s := bucket.wait_s(amount, now_s)):
                raise self._too_many(f"has used up its {what} a minute", int(bucket.capacity), wait_s)

    def _too_many(self, what: str, limit: int, retry_after_s: float) -> PacelineError:
        return PacelineError(
            Reason.RATE_LIMITED,
            f"tenant {self.tenant!r} {what}; it may have {limit}; try again in {retry_after_s:.1f} s",
            field="tenant",
            value=self.tenant,
            limit=limit,
            retry_after_s=retry_after_s,
        )


def _bucket(present: Bucket | None, per_minute: int | None, now_s: float) -> Bucket | None:
    if per_minute is None:
        return None
    if present is None:
        return Bucket(per_minute, now_s)
    present.resize(per_minute, now_s)
    return present
