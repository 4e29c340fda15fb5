"""What a router's settings say of access, put together."""

from __future__ import annotations

import secrets
import time

import structlog

from paceline.router.access.access import Access, OpenAccess, SharedAccess, TokenAccess
from paceline.router.access.table import TokenTable
from paceline.router.access.token_file import TokenFileError
from paceline.router.access.watcher import Watcher
from paceline.router.settings import RouterSettings
from paceline.wire.errors import PacelineError
from paceline.wire.settings import StartupError

log = structlog.get_logger()

ANNOUNCE = "/paceline.v1.Registry/Announce"
SECRET_BYTES = 32


class Lock:
    """Access by a token file, by one shared token, or by none.

    Args:
        settings: of the router. With a token file, `token` is only what is shown to verifiers.

    Attributes:
        access: for every door.
        tokens: the same, if it goes by a token file. Also a guard of gRPC ports; without it those ask for `token`.

    Raises:
        StartupError: the token file can't be used.
    """

    def __init__(self, settings: RouterSettings) -> None:
        self._settings = settings
        self.tokens: TokenAccess | None = None
        self._watcher: Watcher | None = None
        self.access: Access = SharedAccess(settings.token) if settings.token else OpenAccess()
        if settings.token_file is None:
            return
        self._watcher = Watcher(settings.token_file, secrets.token_bytes(SECRET_BYTES), self._replace)
        try:
            self.access = self.tokens = TokenAccess(self._watcher.first(), time.time, time.monotonic)
        except TokenFileError as error:
            raise StartupError(f"--token-file: {error}") from None

    def start(self) -> None:
        """Watches the token file, if there is one."""
        if self._watcher is None or self.tokens is None:
            return
        self._watcher.start()
        if not self._settings.token:
            log.warning("verifiers are shown no token; those that ask for one need it here too, by PACELINE_TOKEN")
            return
        try:
            self.tokens.check(ANNOUNCE, self._settings.token)
        except PacelineError as error:
            log.warning("members that show this router's own --token are not let in", why=error.message)

    async def close(self) -> None:
        if self._watcher is not None:
            await self._watcher.close()

    def _replace(self, table: TokenTable) -> None:
        assert self.tokens is not None
        self.tokens.replace(table)
