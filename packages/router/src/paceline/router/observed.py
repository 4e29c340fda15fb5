"""An answer that is watched: counted and timed as its client sees it, and traced."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from paceline.router.access.metered import Answering
from paceline.router.failures import VerifierError
from paceline.router.metrics import ABORT, ERROR, Metrics
from paceline.v1 import generation_pb2
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.tracing import Span

FINISHES = {
    generation_pb2.FINISH_REASON_STOP: "stop",
    generation_pb2.FINISH_REASON_LENGTH: "length",
}


class Observed:
    """Passes an answer on, and says what became of it.

    Args:
        answering: the request.
        metrics: that count it.
        span: of the request; ended with it.
        clock: monotonic seconds.
    """

    def __init__(self, answering: Answering, metrics: Metrics, span: Span, clock: Callable[[], float]) -> None:
        self._answering = answering
        self._metrics = metrics
        self._span = span
        self._clock = clock
        self._came_s = clock()
        self._model = ""
        self._prompt_tokens = 0
        self._num_tokens = 0
        self._outcome = ABORT

    async def events(self) -> AsyncGenerator[generation_pb2.GenerateEvent]:
        """What the client gets, and what the request itself raises."""
        error = ""
        try:
            async with aclosing(self._answering.events()) as events:
                async for event in events:
                    self._see(event)
                    yield event
        except (PacelineError, VerifierError) as failure:
            error = failure.reason.value if failure.reason is not None else getattr(failure, "code", "")
            raise
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException:
            error = Reason.INTERNAL.value
            raise
        finally:
            self._end(error)

    def _see(self, event: generation_pb2.GenerateEvent) -> None:
        kind = event.WhichOneof("event")
        if kind == "tokens":
            if not self._num_tokens:
                self._metrics.first_token(self._model, self._clock() - self._came_s)
                self._span.event("first token")
            self._num_tokens += len(event.tokens.ids)
        elif kind == "started":
            self._model, self._prompt_tokens = event.started.model, event.started.prompt_tokens
        elif kind == "finished":
            self._outcome = FINISHES.get(event.finished.reason, "stop")

    def _end(self, error: str) -> None:
        if error:
            self._outcome = ERROR
            self._metrics.failed(error)
        seconds = self._clock() - self._came_s
        self._metrics.ended(self._model, self._outcome, seconds, self._prompt_tokens, self._num_tokens)
        self._span.set(
            {
                "gen_ai.response.model": self._model,
                "gen_ai.response.finish_reasons": [self._outcome],
                "gen_ai.usage.input_tokens": self._prompt_tokens,
                "gen_ai.usage.output_tokens": self._num_tokens,
            }
        )
        self._span.end(error)
