"""Several streams as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

import anyio

T = TypeVar("T")


async def merged(streams: Sequence[AsyncGenerator[T]]) -> AsyncGenerator[tuple[int, T]]:
    """What the streams yield as it comes, each with its stream's index.

    Of each stream at most one item is ahead of the reader. Ends when all have ended, or raises what the first to fail
    raises; either way, and when it is closed, all streams are closed.
    """
    if len(streams) == 1:
        async with aclosing(streams[0]) as stream:
            async for item in stream:
                yield 0, item
        return
    waiting = {asyncio.create_task(_next(stream)): index for index, stream in enumerate(streams)}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=waiting.__getitem__):
                index = waiting.pop(task)
                for item in task.result():
                    yield index, item
                    waiting[asyncio.create_task(_next(streams[index]))] = index
    finally:
        for task in waiting:
            task.cancel()
        # anyio's scopes, which the HTTP server's tasks run in, cancel at every await until their end.
        with anyio.CancelScope(shield=True):
            await asyncio.gather(*waiting, return_exceptions=True)
            await asyncio.gather(*(stream.aclose() for stream in streams), return_exceptions=True)


async def _next(stream: AsyncGenerator[T]) -> list[T]:
    """The next item, or none at the end."""
    async for item in stream:
        return [item]
    return []
