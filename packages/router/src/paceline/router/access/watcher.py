"""Reads the token file again when it changes. What is broken changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable
from pathlib import Path

import structlog

from paceline.router.access.table import TokenTable
from paceline.router.access.token_file import TokenFileError, read_table

log = structlog.get_logger()

LOOK_S = 1.0
_NO_SIGNALS = (NotImplementedError, RuntimeError, ValueError)  # outside of the main thread, or where there are none

Signature = tuple[int, ...]


class Watcher:
    """Looks once a second whether the file is another one, or at once when the process gets SIGHUP.

    Looking and reading happen in a thread: a file system may stand still.

    Args:
        path: of the file.
        secret: see `TokenTable`.
        on_table: called on the event loop with what it has now.
        look_s: pause between looks.
    """

    def __init__(
        self, path: Path, secret: bytes, on_table: Callable[[TokenTable], None], look_s: float = LOOK_S
    ) -> None:
        self._path = path
        self._secret = secret
        self._on_table = on_table
        self._look_s = look_s
        self._seen: Signature | None = None
        self._told = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def first(self) -> TokenTable:
        """What the file has at the start. Raises TokenFileError."""
        self._seen = _signature(self._path)
        return read_table(self._path, self._secret)

    def start(self) -> None:
        """Begins to look; call it on the event loop."""
        with contextlib.suppress(*_NO_SIGNALS):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.look_now)
        self._task = asyncio.create_task(self._look(), name="token file")

    def look_now(self) -> None:
        """Reads the file again, changed or not."""
        self._seen = None
        self._told.set()

    async def close(self) -> None:
        if self._task is not None:
            with contextlib.suppress(*_NO_SIGNALS):
                asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _look(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._told.wait(), self._look_s)
            self._told.clear()
            now = await asyncio.to_thread(_signature, self._path)
            if now == self._seen:
                continue
            self._seen = now  # before it is read: what changes meanwhile is seen next time
            try:
                table = await asyncio.to_thread(read_table, self._path, self._secret)
            except TokenFileError as error:
                log.error("token file not read; the tokens of before stay", why=str(error))
                continue
            self._on_table(table)
            log.info("token file read", tenants=len(table.limits), tokens=len(table))


def _signature(path: Path) -> Signature:
    """Another one whenever the file was written to or replaced; empty if it isn't there."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)
