"""Who is at the door: by its token if there is a token file, anybody otherwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from paceline.router.access.quota import Quota
from paceline.router.access.rights import ANY, Roles, roles_for_method, roles_for_path
from paceline.router.access.table import TokenTable, check_roles
from paceline.router.checks import MAX_NAME
from paceline.wire.errors import out_of_range
from paceline.wire.guard import SharedToken

BETWEEN = "/"


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf something is done.

    Attributes:
        tenant: whose token was shown; empty if tokens have no tenants.
        quota: what the tenant may use; None for as much as it likes.
    """

    tenant: str = ""
    quota: Quota | None = None

    def tenant_for(self, asked: str) -> str:
        """What separates the memory of a request.

        A caller may serve users of its own and keep them apart by the request's `tenant`. That lies within its own, so
        whatever it names, it can't be another's: "acme/alice". Raises OUT_OF_RANGE.
        """
        if not self.tenant or not asked:
            return self.tenant or asked
        full = f"{self.tenant}{BETWEEN}{asked}"
        if len(full) > MAX_NAME:
            room = MAX_NAME - len(self.tenant) - len(BETWEEN)
            raise out_of_range("tenant", f"{len(asked)} characters long", f"at most {room} characters")
        return full


ANYBODY = Caller()


class Access(Protocol):
    """Decides who may do what, at every door."""

    def for_method(self, method: str, token: str | None) -> Caller:
        """Who makes a call of gRPC ("/paceline.v1.Router/Generate"). Raises UNAUTHENTICATED or PERMISSION_DENIED."""
        ...

    def for_path(self, path: str, token: str | None) -> Caller:
        """Who asks for a path of HTTP; the same errors."""
        ...


class OpenAccess:
    """Everybody may do everything: for what only its own machine can reach."""

    def for_method(self, method: str, token: str | None) -> Caller:
        return ANYBODY

    def for_path(self, path: str, token: str | None) -> Caller:
        return ANYBODY


class SharedAccess:
    """Everybody who has the one token may do everything."""

    def __init__(self, token: str) -> None:
        self._guard = SharedToken(token)

    def for_method(self, method: str, token: str | None) -> Caller:
        self._guard.check(method, token)
        return ANYBODY

    def for_path(self, path: str, token: str | None) -> Caller:
        return self.for_method(path, token)


class TokenAccess:
    """By the tokens of a table, which may be exchanged. Also a `Guard`.

    Args:
        table: the first.
        wall_clock: seconds since 1970, for tokens that expire.
        clock: monotonic seconds, for rates.
    """

    def __init__(self, table: TokenTable, wall_clock: Callable[[], float], clock: Callable[[], float]) -> None:
        self._wall_clock = wall_clock
        self._clock = clock
        self._quotas: dict[str, Quota] = {}
        self.replace(table)

    def replace(self, table: TokenTable) -> None:
        """Another table from now on. Requests in progress go on, and count where they began."""
        now_s, before = self._clock(), self._quotas
        self._table = table
        self._quotas = {}
        for tenant, limits in table.limits.items():
            quota = before.get(tenant) or Quota(tenant, limits, now_s)
            quota.limit(limits, now_s)
            self._quotas[tenant] = quota

    def check(self, method: str, token: str | None) -> None:
        self.for_method(method, token)

    def for_method(self, method: str, token: str | None) -> Caller:
        return self._caller(token, roles_for_method(method), "this method")

    def for_path(self, path: str, token: str | None) -> Caller:
        return self._caller(token, roles_for_path(path), "this path")

    def _caller(self, token: str | None, needed: Roles, what: str) -> Caller:
        entry = self._table.find(token, self._wall_clock())
        if needed != ANY:
            check_roles(entry, needed, what)
        return Caller(entry.tenant, self._quotas[entry.tenant])

    def usage(self) -> list[tuple[Quota, int, int]]:
        """Of each tenant by name: its quota, and how many of its tokens are good and have expired."""
        valid, expired = self._table.counts(self._wall_clock())
        return [(self._quotas[tenant], valid[tenant], expired[tenant]) for tenant in sorted(self._quotas)]
