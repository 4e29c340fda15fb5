"""The token file: YAML or JSON, bounded, and plain about what is wrong with it."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from paceline.router.access.quota import Limits
from paceline.router.access.rights import AccessRole
from paceline.router.access.table import Entry, TokenTable

MAX_BYTES = 8 * 1024 * 1024
MAX_TENANTS = 10_000
MAX_TENANT_NAME = 64
MAX_TOKENS = 100
MAX_LIMIT = 2**31 - 1
_NAMED = 5  # problems that are named

# Without a slash, which stands between a tenant and those it names itself (see Caller.tenant_for).
TENANT = rf"^[A-Za-z0-9][A-Za-z0-9_.-]{{0,{MAX_TENANT_NAME - 1}}}$"
Tenant = Annotated[str, StringConstraints(pattern=TENANT)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{64}$")]
Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT)]

_WORDS = {
    "sha256": "must be 64 hexadecimal digits, the SHA-256 of the token and never the token itself",
    "expires": "must be a time with its zone, like 2027-01-31T12:00:00Z",
    "[key]": f"a tenant's name has 1 to {MAX_TENANT_NAME} letters, digits and _ . -, and begins with a letter or digit",
}


class TokenFileError(Exception):
    """The file can't be used. The message names the entry and has no secrets in it."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TokenEntry(_Model):
    sha256: Digest
    roles: Annotated[list[AccessRole], Field(min_length=1)] = [AccessRole.CLIENT]
    expires: AwareDatetime | None = None
    note: Annotated[str, Field(max_length=1000)] = ""


class LimitsEntry(_Model):
    requests_at_once: Limit | None = None
    requests_per_minute: Limit | None = None
    tokens_per_minute: Limit | None = None
    prompt_bytes: Limit | None = None
    prompt_tokens: Limit | None = None
    max_tokens: Limit | None = None


class TenantEntry(_Model):
    tokens: Annotated[list[TokenEntry], Field(max_length=MAX_TOKENS)] = []
    limits: LimitsEntry = LimitsEntry()


class TokenFile(_Model):
    tenants: Annotated[dict[Tenant, TenantEntry], Field(max_length=MAX_TENANTS)]


def read_content(path: Path) -> bytes:
    """What a file has, whatever that is. Raises TokenFileError."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise TokenFileError(f"{path} can't be read: {error.strerror}") from None
    if len(content) > MAX_BYTES:
        raise TokenFileError(f"{path} has more than {MAX_BYTES} bytes")
    return content


def table_in(content: bytes, path: Path, secret: bytes) -> TokenTable:
    """The tokens in what a file of this name has. Raises TokenFileError."""
    try:
        return parse_table(content.decode(), secret, is_json=path.suffix == ".json")
    except UnicodeDecodeError:
        raise TokenFileError(f"{path} is no text in UTF-8") from None
    except TokenFileError as error:
        raise TokenFileError(f"{path}: {error}") from None


def parse_table(text: str, secret: bytes, is_json: bool = False) -> TokenTable:
    """The same of its text. Raises TokenFileError."""
    try:
        found = TokenFile.model_validate(_json(text) if is_json else _yaml(text))
    except ValidationError as error:
        problems = [_problem(one["loc"], one["msg"]) for one in error.errors(include_input=False, include_url=False)]
        more = f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise TokenFileError("; ".join(problems[:_NAMED]) + more) from None
    entries: dict[bytes, Entry] = {}
    places: dict[bytes, str] = {}
    for tenant, entry in found.tenants.items():
        for index, token in enumerate(entry.tokens):
            digest, place = bytes.fromhex(token.sha256), f"tenants.{tenant}.tokens.{index}"
            if digest in places:
                raise TokenFileError(f"{place}.sha256 is that of {places[digest]}, too; a token has one entry")
            places[digest] = place
            entries[digest] = Entry(digest, tenant, frozenset(token.roles), _seconds(token.expires))
    limits = {tenant: Limits(**entry.limits.model_dump()) for tenant, entry in found.tenants.items()}
    return TokenTable(entries.values(), limits, secret)


def _seconds(time: datetime | None) -> float | None:
    return None if time is None else time.timestamp()


def _problem(location: tuple[int | str, ...], message: str) -> str:
    return f"{'.'.join(map(str, location)) or 'the file'}: {_WORDS.get(str(location[-1]) if location else '', message)}"


def _json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_distinct)
    except json.JSONDecodeError as error:
        raise TokenFileError(f"no JSON: {error.msg} in line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise TokenFileError("no JSON of ours: it is nested too deeply") from None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise TokenFileError(f"{key[:MAX_TENANT_NAME]} is there twice; the first would count for nothing")
        found[key] = value
    return found


def _yaml(text: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:  # whose text would quote the line
        mark = error.problem_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise TokenFileError(f"no YAML: {error.problem}{where}") from None
    except (yaml.YAMLError, RecursionError, ValueError):
        raise TokenFileError("no YAML that can be read") from None


class _Loader(yaml.SafeLoader):
    """Without aliases, of which a few lines make gigabytes, and without keys that are there twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.MarkedYAMLError(problem="aliases are not taken", problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        _distinct([(str(getattr(key, "value", "")), None) for key, _value in node.value])
        return super().construct_mapping(node, deep)
