"""A thread for the model: one call at a time, with as little as possible between a call and its start."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

_Job = tuple[Callable[..., Any], tuple[Any, ...], "asyncio.Future[Any]", asyncio.AbstractEventLoop]


class ModelThread:
    """Runs what it is given in order. A ThreadPoolExecutor does the same in 120 instead of 40 microseconds."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="model", daemon=True)
        self._thread.start()

    def call(self, work: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        """Runs `work(*args)` in the thread; for the event loop's thread."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._jobs.put((work, args, future, loop))
        return future

    def close(self) -> None:
        """Returns when everything that was called is done."""
        self._jobs.put(None)
        self._thread.join()

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            work, args, future, loop = job
            try:
                result = work(*args)
            except Exception as error:
                _tell(loop, _fail, future, error)
            else:
                _tell(loop, _succeed, future, result)
            del job, work, args, future


def _tell(
    loop: asyncio.AbstractEventLoop, settle: Callable[..., None], future: asyncio.Future[Any], value: Any
) -> None:
    try:
        loop.call_soon_threadsafe(settle, future, value)
    except RuntimeError:  # the loop is closed; nobody waits any more
        return


def _succeed(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
