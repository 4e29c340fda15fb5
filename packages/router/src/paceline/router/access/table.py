"""Tokens by their digests: whose they are, what for, and until when. Time and secrets are arguments."""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from paceline.router.access.quota import Limits
from paceline.router.access.rights import Roles
from paceline.wire.errors import PacelineError, Reason

MAX_TOKEN = 1024
FIELD = "authorization"


@dataclass(frozen=True, slots=True)
class Entry:
    """One token.

    Attributes:
        digest: SHA-256 of it; nobody here knows the token itself.
        expires_s: seconds since 1970 from which on it isn't good any more; None never.
    """

    digest: bytes
    tenant: str
    roles: Roles
    expires_s: float | None = None

    def expired(self, now_s: float) -> bool:
        return self.expires_s is not None and now_s >= self.expires_s


class TokenTable:
    """All of them, as one file has them. A value: another file is another table.

    Args:
        entries: of distinct digests.
        limits: by tenant, of each tenant that there is.
        secret: random bytes. Digests are found by a keyed hash of theirs, so the time that finding takes says nothing
            of them; then they are compared in constant time.
    """

    def __init__(self, entries: Iterable[Entry], limits: Mapping[str, Limits], secret: bytes) -> None:
        self.limits = dict(limits)
        self._secret = secret
        self._entries = {self._place(entry.digest): entry for entry in entries}

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, token: str | None, now_s: float) -> Entry:
        """The entry of a token that somebody shows.

        Args:
            now_s: seconds since 1970.

        Raises:
            PacelineError: UNAUTHENTICATED; it says what is wrong, and never what was shown.
        """
        if token is None:
            raise _refusal("a token is needed: 'authorization' must be 'Bearer ' and the token")
        if len(token) > MAX_TOKEN:
            raise _refusal(f"the token is not known: it has more than {MAX_TOKEN} characters")
        digest = digest_of(token)
        entry = self._entries.get(self._place(digest))
        if entry is None or not hmac.compare_digest(entry.digest, digest):
            raise _refusal("the token is not known")
        if entry.expires_s is not None and entry.expired(now_s):
            since = datetime.fromtimestamp(entry.expires_s, UTC).isoformat(timespec="seconds")
            raise _refusal(f"the token of tenant {entry.tenant!r} expired at {since}; ask for another", since)
        return entry

    def counts(self, now_s: float) -> tuple[Counter[str], Counter[str]]:
        """Tokens by tenant: those that are good, and those that have expired."""
        valid: Counter[str] = Counter()
        expired: Counter[str] = Counter()
        for entry in self._entries.values():
            (expired if entry.expired(now_s) else valid)[entry.tenant] += 1
        return valid, expired

    def _place(self, digest: bytes) -> bytes:
        return hmac.digest(self._secret, digest, "sha256")


def digest_of(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="replace")).digest()


def check_roles(entry: Entry, needed: Roles, what: str) -> None:
    """Raises PERMISSION_DENIED unless the token is for one of these roles."""
    if entry.roles & needed:
        return
    has = ", ".join(sorted(entry.roles))
    needs = f"needs one for {' or '.join(sorted(needed))}" if needed else "is for nobody"
    raise PacelineError(
        Reason.PERMISSION_DENIED,
        f"the token of tenant {entry.tenant!r} is for {has}; {what} {needs}",
        field=FIELD,
        value=has,
        limit=" or ".join(sorted(needed)),
    )


def _refusal(message: str, limit: str | None = None) -> PacelineError:
    return PacelineError(Reason.UNAUTHENTICATED, message, field=FIELD, limit=limit)
