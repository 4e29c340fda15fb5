"""Reads the token file again when it changes. What is broken changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import signal
from collections.abc import Callable
from pathlib import Path

import structlog

from paceline.router.access.table import TokenTable
from paceline.router.access.token_file import TokenFileError, read_content, table_in
from paceline.wire.waiting import happens

log = structlog.get_logger()

LOOK_S = 1.0
_NO_SIGNALS = (NotImplementedError, RuntimeError, ValueError)  # outside of the main thread, or where there are none


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
        self._seen = b""  # digest of what was read last, or why it couldn't be
        self._told = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def first(self) -> TokenTable:
        """What the file has at the start. Raises TokenFileError."""
        content = read_content(self._path)
        self._seen = _digest(content)
        return table_in(content, self._path, self._secret)

    def start(self) -> None:
        """Begins to look; call it on the event loop."""
        with contextlib.suppress(*_NO_SIGNALS):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.look_now)
        self._task = asyncio.create_task(self._look(), name="token file")

    def look_now(self) -> None:
        """Reads the file again, changed or not."""
        self._seen = b""
        self._told.set()

    async def close(self) -> None:
        if self._task is not None:
            with contextlib.suppress(*_NO_SIGNALS):
                asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _look(self) -> None:
        while True:
            await happens(self._told, self._look_s)
            self._told.clear()
            try:
                table = await self._changed()
            except TokenFileError as error:
                log.error("token file not read; the tokens of before stay", why=str(error))
                continue
            if table is not None:
                self._on_table(table)
                log.info("token file read", tenants=len(table.limits), tokens=len(table))

    async def _changed(self) -> TokenTable | None:
        """What the file has now; None if that is what it had. Raises TokenFileError, once for each way to be broken.

        It is compared by content: times of files are too coarse to tell two writes in a row.
        """
        before = self._seen
        try:
            content = await asyncio.to_thread(read_content, self._path)
        except TokenFileError as error:
            self._seen = str(error).encode()
            if self._seen == before:
                return None
            raise
        self._seen = _digest(content)
        if self._seen == before:
            return None
        return await asyncio.to_thread(table_in, content, self._path, self._secret)


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
