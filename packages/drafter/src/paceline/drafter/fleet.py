"""The verifiers that this drafter serves: those it was told of, and those that routers know."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

import structlog

log = structlog.get_logger()

MAX_VERIFIERS = 256


class LinkLike(Protocol):
    """What the fleet needs of a link."""

    async def run(self) -> None: ...

    async def close(self) -> None: ...


class Fleet:
    """One link per verifier address.

    Args:
        fixed: addresses to keep a link to, whatever routers say.
        new_link: makes the link to an address.
    """

    def __init__(self, fixed: Iterable[str], new_link: Callable[[str], LinkLike]) -> None:
        self._fixed = tuple(fixed)
        self._new_link = new_link
        self._links: dict[str, LinkLike] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # asyncio itself keeps only weak references

    @property
    def addresses(self) -> list[str]:
        return list(self._links)

    def update(self, known: Iterable[str]) -> None:
        """Opens links to verifiers that are new, closes those that no router knows any more."""
        wanted = list(dict.fromkeys((*self._fixed, *(address for address in known if address))))
        if len(wanted) > MAX_VERIFIERS:
            log.warning("too many verifiers", known=len(wanted), served=MAX_VERIFIERS)
            del wanted[MAX_VERIFIERS:]
        for address in set(self._links) - set(wanted):
            self._spawn(self._links.pop(address).close())
        for address in wanted:
            if address not in self._links:
                link = self._links[address] = self._new_link(address)
                self._spawn(link.run())

    async def close(self) -> None:
        """Says goodbye to all verifiers and waits until every link has ended."""
        for link in self._links.values():
            self._spawn(link.close())
        self._links.clear()
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _spawn(self, work: object) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("link failed", exc_info=task.exception())
