"""Who waits for new revisions. A slow watcher misses what was overtaken, and holds up nobody."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from paceline.trainer.revisions import StoredRevision
from paceline.wire.errors import PacelineError, Reason

MAX_WATCHERS = 4096


class Watchers:
    """Fans revisions out on one event loop."""

    def __init__(self) -> None:
        self._slots: set[_Slot] = set()
        self.closed = False

    def __len__(self) -> int:
        return len(self._slots)

    def publish(self, stored: StoredRevision) -> None:
        """Tells everybody whose line it is."""
        for slot in self._slots:
            slot.put(stored)

    def withdraw(self, stored: StoredRevision, newest: StoredRevision | None) -> None:
        """Tells everybody whose line it is that a revision was withdrawn.

        newest: of its line, of those in use. Who was about to hear of the other and missed this one gets this one.
        """
        for slot in self._slots:
            slot.withdraw(stored, newest)

    @contextmanager
    def watch(self, drafter: str) -> Iterator[_Slot]:
        """A slot that revisions of a drafter line ("" for all) fall into; iterate over it. Raises OVERLOADED."""
        if len(self._slots) >= MAX_WATCHERS:
            message = f"{MAX_WATCHERS} watchers are here already; try again later"
            raise PacelineError(Reason.OVERLOADED, message, retry_after_s=10.0)
        slot = _Slot(drafter)
        self._slots.add(slot)
        if self.closed:
            slot.close()
        try:
            yield slot
        finally:
            self._slots.discard(slot)

    def close(self) -> None:
        """Ends every watcher's iteration, now and later."""
        self.closed = True
        for slot in self._slots:
            slot.close()


class _Slot:
    """What its watcher hasn't taken yet: the latest revision of each line, and withdrawals."""

    def __init__(self, drafter: str) -> None:
        self._drafter = drafter
        self._latest: dict[str, StoredRevision] = {}
        self._withdrawn: dict[str, StoredRevision] = {}  # by id
        self._given_unix_s: dict[str, float] = {}
        self._changed = asyncio.Event()
        self._closed = False

    def put(self, stored: StoredRevision) -> None:
        """Nothing goes backwards, and nothing comes twice, in whatever order publishers get here."""
        line = stored.drafter
        if self._drafter not in ("", line):
            return
        waiting = self._latest.get(line)
        known_unix_s = waiting.published_unix_s if waiting else self._given_unix_s.get(line, -math.inf)
        if stored.published_unix_s > known_unix_s:
            self._latest[line] = stored
            self._changed.set()

    def withdraw(self, stored: StoredRevision, newest: StoredRevision | None) -> None:
        line = stored.drafter
        if self._drafter not in ("", line):
            return
        waiting = self._latest.get(line)
        if waiting is not None and waiting.revision_id == stored.revision_id:
            del self._latest[line]
            if newest is not None:
                self.put(newest)
        self._withdrawn[stored.revision_id] = stored
        self._changed.set()

    def close(self) -> None:
        self._closed = True
        self._changed.set()

    async def __aiter__(self) -> AsyncIterator[StoredRevision]:
        while not self._closed:
            await self._changed.wait()
            self._changed.clear()
            while self._withdrawn or self._latest:
                if self._withdrawn:
                    yield self._withdrawn.pop(next(iter(self._withdrawn)))
                    continue
                stored = self._latest.pop(next(iter(self._latest)))
                self._given_unix_s[stored.drafter] = stored.published_unix_s
                yield stored
