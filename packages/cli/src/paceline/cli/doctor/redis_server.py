"""The Redis server in which routers keep what they learn: there, new enough, writable, allowed to run scripts."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from paceline.cli.doctor.finding import Finding, fail, ok, warn
from paceline.cli.doctor.settings import DoctorSettings

LEAST = (7, 0)
TIMEOUT_S = 3.0
MAX_SKEW_S = 60.0
_OTHER = "start or mend it, or keep the state in SQLite (--state sqlite:///PATH)"


@dataclass(frozen=True, slots=True)
class Server:
    """What a server said. skew_s: how far its clock is ahead of ours."""

    info: dict[str, Any]
    scripts: bool
    skew_s: float


def check(settings: DoctorSettings) -> list[Finding]:
    url = settings.redis or _of_router()
    if not url:
        return [ok("none named (--redis); what is learned is kept in SQLite")]
    try:
        import redis
    except ImportError:
        return [warn("not looked at: the Python package redis isn't installed here", "pip install paceline-router")]
    if urlsplit(url).scheme not in ("redis", "rediss"):
        return [
            fail("--redis is no URL of Redis", "it is redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE], or rediss://")
        ]
    try:
        where = f"{urlsplit(url).hostname}:{urlsplit(url).port or 6379}"
        return judge(where, _ask(redis, url))
    except redis.exceptions.AuthenticationError:
        return [fail(f"{where} refuses the password", "put the right one into the URL")]
    except (redis.exceptions.RedisError, OSError) as error:
        why = " ".join(str(error).split())[:200] or type(error).__name__
        return [fail(f"{where} does not answer: {why}", _OTHER)]
    except ValueError as error:
        return [fail(f"--redis is no URL of Redis: {error}", "it is redis://HOST:PORT/DATABASE")]


def _of_router() -> str:
    """The router's own setting, where this runs with its environment."""
    state = os.environ.get("PACELINE_STATE", "")
    return state if urlsplit(state).scheme in ("redis", "rediss") else ""


def _ask(redis: Any, url: str) -> Server:
    """Writes nothing."""
    client = redis.Redis.from_url(
        url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=None, protocol=2
    )
    try:
        info = dict(client.info())
        seconds, microseconds = client.time()
        now_s = time.time()
        try:
            scripts = client.eval("return 1", 0) == 1
        except redis.exceptions.ResponseError:
            scripts = False
        return Server(info, scripts, seconds + microseconds / 1e6 - now_s)
    finally:
        client.close()


def judge(where: str, server: Server) -> list[Finding]:
    info = server.info
    version = str(info.get("redis_version", ""))
    shown = f"{where}, version {version}"
    if _numbers(version) < LEAST:
        return [fail(shown, f"install Redis {'.'.join(map(str, LEAST))} or later: routers' scripts need it")]
    if not server.scripts:
        return [fail(f"{shown}, refuses scripts", "let this user run EVAL and EVALSHA")]
    if info.get("role") not in (None, "master"):
        return [fail(f"{shown}, is a replica and takes no writes", "name its primary")]
    findings = [ok(shown)]
    if not info.get("aof_enabled"):
        findings.append(warn("a crash of Redis forgets what was learned last", "set 'appendonly yes' in redis.conf"))
    if str(info.get("maxmemory_policy", "noeviction")).startswith("allkeys") and info.get("maxmemory"):
        findings.append(warn("it may drop keys of routers when memory is short", "set 'maxmemory-policy noeviction'"))
    if abs(server.skew_s) > MAX_SKEW_S:
        findings.append(
            warn(f"its clock is {server.skew_s:+.0f} s from this machine's", "have both follow a time server")
        )
    return findings


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdecimal() else 0 for part in version.split(".")[:2])
