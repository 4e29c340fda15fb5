"""The token that is shown, and the file of tokens: whether others can read or change them, and what has expired."""

from __future__ import annotations

import os
import re
import stat
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from paceline.cli.doctor.finding import Finding, fail, ok, warn
from paceline.cli.doctor.settings import DoctorSettings

LEAST_LENGTH = 16
MAX_BYTES = 8 << 20  # a router reads no more
DIGEST = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True, slots=True)
class TokenFile:
    """mode: its permissions. trouble: why it can't be read. digests, times: of its entries."""

    path: Path
    mode: int
    trouble: str = ""
    digests: tuple[str, ...] = ()
    expiries: tuple[float, ...] = ()


def check(settings: DoctorSettings) -> list[Finding]:
    findings = [judge_token(settings.token)]
    if settings.token_file is not None:
        findings.append(judge_file(read(settings.token_file.expanduser()), time.time()))
    if config := os.environ.get("PACELINE_CONFIG"):
        findings += judge_config(Path(config), _mode(Path(config)), bool(settings.token))
    return findings


def judge_token(token: str) -> Finding:
    if not token:
        return ok("none is shown (PACELINE_TOKEN); fine where nobody is asked for one")
    if token != token.strip() or not token.isascii():
        return fail(
            "the token begins or ends with a blank, or isn't ASCII", "correct PACELINE_TOKEN; no header can carry it"
        )
    if len(token) < LEAST_LENGTH:
        return warn(
            f"the token has {len(token)} characters", "make a longer one: 'paceline-router token NAME' prints one"
        )
    return ok("a token is shown")


def read(path: Path) -> TokenFile:
    try:
        mode = path.stat().st_mode
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        return TokenFile(path, 0, f"can't be read: {(error.strerror or str(error)).lower()}")
    if len(content) > MAX_BYTES:
        return TokenFile(path, mode, f"has more than {MAX_BYTES} bytes")
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(content)):
            return TokenFile(path, mode, "has aliases, which routers don't take")
        entries = _entries(yaml.safe_load(content))
    except (yaml.YAMLError, ValueError, RecursionError):  # whose text would quote the file
        return TokenFile(path, mode, "is neither YAML nor JSON as 'paceline-router token' prints it")
    expiries = tuple(time_s for entry in entries if (time_s := _seconds(entry.get("expires"))) is not None)
    return TokenFile(path, mode, "", tuple(str(entry.get("sha256", "")) for entry in entries), expiries)


def _entries(document: Any) -> list[dict[str, Any]]:
    """Those of all tenants. Raises ValueError."""
    tenants = document.get("tenants") if isinstance(document, dict) else None
    if not isinstance(tenants, dict):
        raise ValueError("no tenants")
    tokens = [token for tenant in tenants.values() if isinstance(tenant, dict) for token in tenant.get("tokens") or []]
    if not all(isinstance(token, dict) for token in tokens):
        raise ValueError("an entry is no mapping")
    return tokens


def _seconds(value: Any) -> float | None:
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    return value.timestamp() if isinstance(value, datetime) else None


def judge_file(file: TokenFile, now_s: float) -> Finding:
    """Digests are no secrets that open anything; who may write the file lets himself in."""
    if file.trouble:
        return fail(f"{file.path} {file.trouble}", "a router doesn't start with it; correct --token-file or the file")
    if file.mode & stat.S_IWOTH:
        return fail(f"{file.path} may be written by everybody on this machine", f"chmod 600 {file.path}")
    if wrong := sum(1 for digest in file.digests if not DIGEST.fullmatch(digest)):
        return fail(
            f"{file.path}: {wrong} entries have no SHA-256 of a token", "'paceline-router token NAME' prints entries"
        )
    if not file.digests:
        return warn(f"{file.path} has no token, so nobody gets in", "'paceline-router token NAME' prints an entry")
    if file.mode & stat.S_IROTH:
        return warn(f"{file.path} may be read by everybody on this machine", f"chmod 600 {file.path}")
    if expired := sum(1 for expiry in file.expiries if expiry <= now_s):
        return warn(f"{file.path}: {expired} of {len(file.digests)} tokens have expired", "replace or remove them")
    return ok(f"{file.path}: {len(file.digests)} tokens")


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:
        return 0


def judge_config(path: Path, mode: int, has_token: bool) -> list[Finding]:
    """A file of settings may have the token itself in it."""
    if has_token and mode & stat.S_IROTH and "PACELINE_TOKEN" not in os.environ:
        return [warn(f"{path} has a token in it and may be read by everybody on this machine", f"chmod 600 {path}")]
    return []
