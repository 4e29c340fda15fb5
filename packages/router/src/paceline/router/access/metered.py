"""An answer whose tokens its tenant pays for."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Protocol

from paceline.router.access.quota import Quota
from paceline.v1 import generation_pb2


class Answering(Protocol):
    """A request in progress."""

    def events(self) -> AsyncGenerator[generation_pb2.GenerateEvent]:
        """What the client gets."""
        ...


class Metered:
    """Counts tokens as they come, and ends a request whose prompt turns out to have too many before it has any.

    Args:
        answering: the request.
        quota: of its tenant.
        clock: monotonic seconds.
    """

    def __init__(self, answering: Answering, quota: Quota, clock: Callable[[], float]) -> None:
        self._answering = answering
        self._quota = quota
        self._clock = clock

    async def events(self) -> AsyncGenerator[generation_pb2.GenerateEvent]:
        """What the client gets. Raises PROMPT_TOO_LONG, and what the request itself raises."""
        async with aclosing(self._answering.events()) as events:
            async for event in events:
                kind = event.WhichOneof("event")
                if kind == "tokens":
                    self._quota.charge(len(event.tokens.ids), self._clock())
                elif kind == "started":
                    self._quota.check_prompt("prompt", 0, event.started.prompt_tokens)
                yield event
