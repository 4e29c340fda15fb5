"""Who waits for new revisions. A slow watcher misses what was overtaken, and holds up nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from paceline.trainer.revisions import StoredRevision


class Watchers:
    """Fans revisions out on one event loop."""

    def __init__(self) -> None:
        self._slots: set[_Slot] = set()

    def __len__(self) -> int:
        return len(self._slots)

    def publish(self, stored: StoredRevision) -> None:
        for slot in self._slots:
            if slot.drafter in ("", stored.revision.manifest.drafter):
                slot.put(stored)

    @contextmanager
    def watch(self, drafter: str) -> Iterator[AsyncIterator[StoredRevision]]:
        """Revisions of a drafter line ("" for all) published from now on; of each line the latest wins."""
        slot = _Slot(drafter)
        self._slots.add(slot)
        try:
            yield slot.revisions()
        finally:
            self._slots.discard(slot)


class _Slot:
    def __init__(self, drafter: str) -> None:
        self.drafter = drafter
        self._latest: dict[str, StoredRevision] = {}
        self._arrived = asyncio.Event()

    def put(self, stored: StoredRevision) -> None:
        self._latest[stored.revision.manifest.drafter] = stored
        self._arrived.set()

    async def revisions(self) -> AsyncIterator[StoredRevision]:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._latest:
                yield self._latest.pop(next(iter(self._latest)))
