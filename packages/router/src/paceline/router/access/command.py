"""The `token` command: makes a token, and the entry by which a router knows it."""

from __future__ import annotations

import json
import re
import secrets

from pydantic import AwareDatetime, Field, field_validator
from pydantic_settings import BaseSettings, CliPositionalArg, SettingsConfigDict

from paceline.router.access.rights import AccessRole
from paceline.router.access.table import digest_of
from paceline.router.access.token_file import TENANT

PREFIX = "pl_"  # by which scanners of repositories may know one
BYTES = 32


class TokenSettings(BaseSettings):
    """Makes a random token and prints it, once, with the entry to add to the token file. Nothing else is written."""

    model_config = SettingsConfigDict(env_prefix="PACELINE_TOKEN_", extra="forbid", use_attribute_docstrings=True)

    tenant: CliPositionalArg[str]
    """Whose token it is: 1 to 64 letters, digits and _ . -"""
    roles: str = AccessRole.CLIENT.value
    """What it is for: client (asks for text), member (verifiers, drafters, trainers), admin; commas between several."""
    expires: AwareDatetime | None = None
    """Until when it is good, with a time zone, like 2027-01-31T12:00:00Z; never expires if unset."""
    as_json: bool = Field(default=False, validation_alias="json")
    """Print JSON instead of text."""

    @field_validator("tenant")
    @classmethod
    def _is_name(cls, value: str) -> str:
        if not re.fullmatch(TENANT, value):
            raise ValueError("must have 1 to 64 letters, digits and _ . -, and begin with a letter or digit")
        return value

    @field_validator("roles")
    @classmethod
    def _are_roles(cls, value: str) -> str:
        names = [part.strip() for part in value.split(",")]
        if unknown := [name for name in names if name not in set(AccessRole)]:
            raise ValueError(f"{unknown[0]!r} is none; there are {', '.join(AccessRole)}")
        return ",".join(dict.fromkeys(names))


def make_token(settings: TokenSettings) -> int:
    """Prints a token and its entry; returns the exit code."""
    token = PREFIX + secrets.token_urlsafe(BYTES)
    digest = digest_of(token).hex()
    roles = settings.roles.split(",")
    expires = None if settings.expires is None else settings.expires.isoformat()
    if settings.as_json:
        entry = {"sha256": digest, "roles": roles} | ({"expires": expires} if expires else {})
        print(json.dumps({"token": token, "tenant": settings.tenant, "entry": entry}))
        return 0
    lines = [f'sha256: "{digest}"', f"roles: [{', '.join(roles)}]"] + ([f"expires: {expires}"] if expires else [])
    print(f"the token, which is not kept anywhere; give it to {settings.tenant}:\n\n  {token}\n")
    print("its entry, for the router's --token-file:\n")
    print(f"tenants:\n  {settings.tenant}:\n    tokens:\n      - " + "\n        ".join(lines))
    return 0
