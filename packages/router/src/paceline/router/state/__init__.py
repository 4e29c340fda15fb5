"""Where what was learnt is kept. To add a store: one file, one line here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from paceline.router.state.base import StateStore
from paceline.router.state.memory import MemoryStore
from paceline.router.state.sqlite import SqliteStore
from paceline.wire.settings import StartupError

STORES: dict[str, Callable[[str], StateStore]] = {
    "sqlite:///": lambda path: SqliteStore(Path(path).expanduser()),
    "memory:": lambda _rest: MemoryStore(),
}


def make_store(url: str) -> StateStore:
    """The store that a setting names. Raises StartupError."""
    for prefix, make in STORES.items():
        rest = url.removeprefix(prefix)
        if url.startswith(prefix) and bool(rest) == prefix.endswith("/"):
            return make(rest)
    if url.startswith("redis"):
        raise StartupError(f"--state is {url!r}: this release keeps no state in Redis; use sqlite:///PATH or memory:")
    raise StartupError(f"--state is {url!r}; it must be sqlite:///PATH or memory:")
