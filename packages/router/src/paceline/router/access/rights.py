"""Which role may call what. What isn't named here nobody may call."""

from __future__ import annotations

from enum import StrEnum


class AccessRole(StrEnum):
    """What a token is for."""

    CLIENT = "client"
    """Asks for text."""
    MEMBER = "member"
    """A verifier, drafter or trainer: announces itself, sees the status."""
    ADMIN = "admin"
    """Drains and withdraws members, changes the policy, sees the status."""


Roles = frozenset[AccessRole]

ANY: Roles = frozenset(AccessRole)
NOBODY: Roles = frozenset()
_CLIENT, _MEMBER, _ADMIN = (frozenset({role}) for role in AccessRole)

METHODS: dict[str, Roles] = {
    "/paceline.v1.Router/Generate": _CLIENT,
    "/paceline.v1.Router/GetStatus": _MEMBER | _ADMIN,
    "/paceline.v1.Registry/Announce": _MEMBER,
    "/paceline.v1.Registry/Withdraw": _MEMBER,
    "/paceline.v1.Admin/Drain": _ADMIN,
    "/paceline.v1.Admin/Withdraw": _ADMIN,
    "/paceline.v1.Admin/SetPolicy": _ADMIN,
    "/paceline.v1.Admin/ListTenants": _ADMIN,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": ANY,
}
"""gRPC's. Health checks need no token, and never come here."""

OPEN_PATHS = ("/health", "/", "/page/")
"""HTTP's that need no token: nothing is behind them that the packages don't have in them."""
PATHS: dict[str, Roles] = {
    "/v1/": _CLIENT,
    "/paceline/": METHODS["/paceline.v1.Router/GetStatus"],
    "/metrics": _MEMBER | _ADMIN,
    "/version": ANY,
    "/openapi.json": ANY,
}
"""HTTP's; one that ends with a slash stands for all below it, "/" only for itself."""


def roles_for_method(method: str) -> Roles:
    return METHODS.get(method, NOBODY)


def is_open(path: str) -> bool:
    """Whether a path of HTTP needs no token."""
    return any(_covers(known, path) for known in OPEN_PATHS)


def roles_for_path(path: str) -> Roles:
    """Those of a path that isn't there are all: who may ask at all hears that it isn't."""
    for known, roles in PATHS.items():
        if _covers(known, path):
            return roles
    return ANY


def _covers(known: str, path: str) -> bool:
    return path == known or (known.endswith("/") and known != "/" and path.startswith(known))
