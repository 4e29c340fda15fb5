"""Where what was learnt is kept. To add a store: one file, one line here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from paceline.router.evidence import Knowledge, Shape
from paceline.router.state.base import StateStore
from paceline.router.state.memory import MemoryStore
from paceline.router.state.redis import RedisStore
from paceline.router.state.sqlite import SqliteStore
from paceline.wire.settings import StartupError

STORES: dict[str, Callable[[str], StateStore]] = {
    "sqlite:///": lambda path: SqliteStore(Path(path).expanduser()),
    "redis://": lambda rest: RedisStore(f"redis://{rest}"),
    "rediss://": lambda rest: RedisStore(f"rediss://{rest}"),
    "memory:": lambda _rest: MemoryStore(),
}


def make_store(url: str) -> StateStore:
    """The store that a setting names. Raises StartupError."""
    for prefix, make in STORES.items():
        rest = url.removeprefix(prefix)
        if url.startswith(prefix) and bool(rest) == prefix.endswith("/"):
            try:
                return make(rest)
            except ValueError as error:
                raise StartupError(
                    f"--state is {shown(url)!r}: {error}; it must be like redis://HOST:PORT/DATABASE"
                ) from None
    raise StartupError(f"--state is {shown(url)!r}; it must be sqlite:///PATH, redis://HOST:PORT/DATABASE or memory:")


def store_maker(url: str) -> Callable[[], StateStore]:
    """Makes connections to the store that a setting names. Raises StartupError."""
    make_store(url)
    if url == "memory:":
        kept: dict[Shape, Knowledge] = {}
        return lambda: MemoryStore(kept)
    return lambda: make_store(url)


def shown(url: str) -> str:
    """The setting as it may be logged: without a password."""
    parts = url.partition("://")
    if not parts[0].startswith("redis") or "@" not in parts[2]:
        return url
    try:
        user = urlsplit(url).username or ""
    except ValueError:
        user = ""
    return f"{parts[0]}://{user}:…@{parts[2].rpartition('@')[2]}"
