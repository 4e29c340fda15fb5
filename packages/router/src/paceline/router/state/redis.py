"""Keeps evidence in Redis, for routers on several machines.

What is written is computed on the server (`redis_scripts.py`), so a batch is added whole and once however many routers
write. Every call has a deadline: a server that is frozen is no more than one that is away. What Redis itself keeps
through a crash is its own setting: with `appendonly yes` a batch that was confirmed survives SIGKILL; without, routers
put back what they last read.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from paceline.router.evidence import FORGOTTEN, MAX_ARMS, Evidence, Knowledge, Shape
from paceline.router.state.base import Batch, StoreError, StoreLost
from paceline.router.state.redis_scripts import APPLY, LOST, READ, RESTORE
from paceline.router.state.rows import KEEP_ROUTERS_S, MAX_MODELS, MAX_SEGMENTS, Row, evidence_of, pack

log = structlog.get_logger()

Hashes = Iterable[tuple[str, Any]]
"""By model, a hash as Redis returns it: fields and values in turn."""

TIMEOUT_S = 2.0
DEFAULT_PORT = 6379
KEEP_MODELS_S = 90 * 86400
MAX_FIELDS = 4 * MAX_ARMS
NAMESPACE = "paceline:router:1"  # the number is that of the layout of keys


class RedisStore:
    """A `StateStore` in a Redis server.

    Args:
        url: redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE], or rediss:// for TLS.
        timeout_s: for each call.

    Raises:
        ValueError: it is no such URL.
    """

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        self._options = _options_of(url)
        self._timeout_s = timeout_s
        self._client: Redis | None = None
        self._shape: Shape | None = None

    async def open(self, shape: Shape, known: Knowledge) -> Knowledge:
        await self._close()
        self._shape = shape
        self._client = Redis(
            **self._options,
            protocol=2,
            client_name="paceline-router",
            socket_timeout=self._timeout_s,
            socket_connect_timeout=self._timeout_s,
            retry=Retry(NoBackoff(), 0),  # the learner repeats, with the batch's number
        )
        if known:
            keys = [self._names(), *map(self._hash, known)]
            await self._run(RESTORE, keys, [*self._limits(), *_arguments(known, {})], lambda _count: ())
        return await self.read()

    async def apply(self, batch: Batch) -> Knowledge:
        shape = self._opened()[1]
        router = f"{NAMESPACE}:batch:{batch.router}"
        arguments = [
            *self._limits(),
            batch.number,
            int(KEEP_ROUTERS_S),
            repr(shape.discount),
            shape.width,
            MAX_ARMS,
            repr(FORGOTTEN),
            *_arguments(batch.learnt, batch.seen),
        ]
        keys = [self._names(), router, *map(self._hash, batch.learnt)]
        return await self._run(APPLY, keys, arguments, lambda hashes: zip(batch.learnt, hashes, strict=True))

    async def read(self) -> Knowledge:
        return await self._run(READ, [self._names()], [*self._limits()[:2], MAX_FIELDS], _by_model)

    async def close(self) -> None:
        await self._close()

    async def _run(
        self, script: str, keys: Sequence[str], arguments: Sequence[Any], hashes_of: Callable[[Any], Hashes]
    ) -> Knowledge:
        """What the hashes in a script's answer say."""
        client, _shape = self._opened()
        try:
            async with asyncio.timeout(2.0 * self._timeout_s):  # connecting, and the call itself
                answer = await client.register_script(script)(keys=keys, args=arguments)
            return self._knowledge(hashes_of(answer))
        except ResponseError as error:
            if str(error).startswith(LOST):
                raise StoreLost(str(error)) from None
            raise await self._failed(error) from error
        except (RedisError, OSError, TimeoutError, ValueError, TypeError, AttributeError) as error:
            raise await self._failed(error) from error

    async def _failed(self, error: Exception) -> StoreError:
        await self._close()
        where = f"{self._options['host']}:{self._options['port']}/{self._options['db']}"
        why = " ".join(str(error).split())[:300] or f"no answer within {self._timeout_s:g} s"
        return StoreError(
            f"the state in Redis at {where} can't be used ({why}); start or mend the server, or choose another with "
            "--state redis://HOST:PORT/DATABASE or --state sqlite:///PATH"
        )

    def _opened(self) -> tuple[Redis, Shape]:
        if self._client is None or self._shape is None:
            raise StoreError("the state in Redis is not open")
        return self._client, self._shape

    async def _close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(self._timeout_s):
                    await client.aclose()

    def _names(self) -> str:
        return f"{NAMESPACE}:models:{self._shape}"

    def _hash(self, model: str) -> str:
        return f"{self._prefix()}{model}"

    def _prefix(self) -> str:
        return f"{NAMESPACE}:sums:{self._shape}:"

    def _limits(self) -> list[Any]:
        return [self._prefix(), MAX_MODELS, KEEP_MODELS_S]

    def _knowledge(self, found: Hashes) -> dict[str, Evidence]:
        _client, shape = self._opened()
        known: dict[str, Evidence] = {}
        for model, fields in found:
            count, rows = _rows_of(fields)
            evidence = evidence_of(model, count, rows, shape)
            if evidence is not None:
                known[model] = evidence
        return known


def _options_of(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    database = parts.path.removeprefix("/") or "0"
    if parts.scheme not in ("redis", "rediss") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("it names no host, or more than host, port and database")
    if not database.isdecimal() or len(database) > 9:
        raise ValueError(f"its database is {database[:30]!r}, not a number")
    return {
        "host": parts.hostname,
        "port": parts.port or DEFAULT_PORT,  # ValueError if it is none
        "db": int(database),
        "username": unquote(parts.username) if parts.username else None,
        "password": unquote(parts.password) if parts.password else None,
        "ssl": parts.scheme == "rediss",
    }


def _arguments(known: Knowledge, seen: Mapping[str, int]) -> Iterable[Any]:
    for model, evidence in known.items():
        yield from (model, evidence.segments, seen.get(model, 0), len(evidence.rows))
        for arm, sums in evidence.vectors():
            yield from (arm.to_text(), pack(sums))


def _text(raw: object) -> str | None:
    try:
        return raw.decode() if isinstance(raw, bytes) else None
    except UnicodeDecodeError:
        return None


def _by_model(answer: Any) -> Hashes:
    names = [_text(name) for name in answer[::2]]
    return [(name, fields) for name, fields in zip(names, answer[1::2], strict=True) if name]


def _rows_of(fields: Any) -> tuple[int | None, list[Row]]:
    """The count of segments and the arms in a hash."""
    count: int | None = None
    rows: list[Row] = []
    for name, value in zip(fields[::2], fields[1::2], strict=True):
        if name == b"":
            count = int(value) if value.isdigit() and len(value) <= len(str(MAX_SEGMENTS)) else None
        else:
            at = struct.unpack("<d", value[:8])[0] if len(value) >= 8 else -1.0
            rows.append((_text(name), int(at) if abs(at) <= MAX_SEGMENTS else None, value[8:]))
    return count, rows
