"""One answer over HTTP: relays' events as a whole body, or as the parts of a stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from pydantic import BaseModel

from paceline.router.access.access import Caller
from paceline.router.countdown import countdown
from paceline.router.http.deadline import sooner_of
from paceline.router.http.merging import merged
from paceline.router.http.requests import Common
from paceline.router.http.responses import Metrics
from paceline.router.http.shapes import LogProbs, Shape, Whole
from paceline.router.http.steps import told_outcome, told_tokens
from paceline.router.http.tally import Tally, usage_of
from paceline.router.intake import Intake
from paceline.v1 import generation_pb2
from paceline.wire.errors import PacelineError, Reason

DONE = "[DONE]"


class Answer:
    """What comes of one body.

    Args:
        intake: takes the requests.
        caller: on whose behalf.
        body: as it was asked.
        requests: one for each choice.
        shape: of the answer.
        timeout_s: from now on, as the request's headers say; the body may say it too, and the sooner counts.
    """

    def __init__(
        self,
        intake: Intake,
        caller: Caller,
        body: Common,
        requests: Sequence[generation_pb2.GenerateRequest],
        shape: Shape,
        timeout_s: float | None = None,
    ) -> None:
        self._intake = intake
        self._caller = caller
        self._requests = requests
        self._shape = shape
        wanted_s = body.paceline.timeout_s if body.paceline else None
        self._time_left = countdown(sooner_of(timeout_s, wanted_s), intake.backend.clock)
        self._choices_each = body.num_choices
        self._shows_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
        self._log_probs = requests[0].HasField("log_probs")
        self._tells_steps = requests[0].HasField("steps")
        self._tallies = [Tally() for _ in requests]

    async def whole(self) -> BaseModel:
        """The body of the response. Raises what `parts` raises."""
        texts: list[list[str]] = [[] for _ in self._requests]
        log_probs: list[list[generation_pb2.TokenLogProbs]] = [[] for _ in self._requests]
        async with aclosing(self._events()) as events:
            async for index, event in events:
                if event.WhichOneof("event") == "tokens":
                    texts[index].append(event.tokens.text)
                    log_probs[index].extend(self._log_probs_of(event.tokens) or ())
        choices = [
            Whole("".join(texts[index]), log_probs[index] if self._log_probs else None, tally.finish_reason or "stop")
            for index, tally in enumerate(self._tallies)
        ]
        return self._shape.whole(choices, usage_of(self._tallies, self._choices_each), self._metrics())

    async def parts(self) -> AsyncGenerator[str]:
        """What each event of a stream has as data. The first comes with the first token, so whatever is refused before
        is raised by the first step.

        Raises:
            PacelineError, VerifierError: see Intake.accepted and Relay.events.
        """
        shape, opened = self._shape, set[int]()
        steps: dict[int, generation_pb2.Step] = {}  # whose tokens come next
        async with aclosing(self._events()) as events:
            async for index, event in events:
                kind = event.WhichOneof("event")
                if kind in ("tokens", "finished") and index not in opened:
                    opened.add(index)
                    if (opening := shape.opening(index)) is not None:
                        yield self._json(opening)
                if kind == "step":
                    steps[index] = event.step
                elif kind == "tokens":
                    log_probs = self._log_probs_of(event.tokens)
                    told = told_tokens(event.tokens, steps.pop(index, None)) if self._tells_steps else None
                    if event.tokens.text or log_probs or told:
                        yield self._json(shape.part(index, event.tokens.text, log_probs, told))
                elif kind == "finished":
                    yield self._json(self._end(index, event.finished.total))
        if self._shows_usage:
            yield self._json(shape.usage(usage_of(self._tallies, self._choices_each), self._metrics()))
        yield DONE

    async def _events(self) -> AsyncGenerator[tuple[int, generation_pb2.GenerateEvent]]:
        """Of all choices, each with its index, and counted."""
        with self._intake.accepted(self._requests, self._time_left, self._caller) as answering:
            async with aclosing(merged([one.events() for one in answering])) as events:
                async for index, event in events:
                    self._count(self._tallies[index], event)
                    yield index, event

    def _count(self, tally: Tally, event: generation_pb2.GenerateEvent) -> None:
        kind = event.WhichOneof("event")
        if kind == "started":
            tally.started(event.started)
            self._shape.head.model = event.started.model
        elif kind == "tokens":
            tally.committed(event.tokens)
        elif kind == "finished":
            tally.finished(event.finished)

    def _log_probs_of(self, tokens: generation_pb2.Tokens) -> LogProbs | None:
        """Those that were asked for; None if none were."""
        if not self._log_probs:
            return None
        if len(tokens.log_probs) != len(tokens.ids):
            raise PacelineError(
                Reason.INTERNAL, f"{len(tokens.ids)} tokens came with {len(tokens.log_probs)} log-probabilities"
            )
        return tokens.log_probs

    def _end(self, index: int, total: generation_pb2.Outcome) -> BaseModel:
        reason = self._tallies[index].finish_reason or "stop"
        metrics = None if self._shows_usage else self._metrics()
        return self._shape.end(index, reason, metrics, told_outcome(total) if self._tells_steps else None)

    def _metrics(self) -> Metrics | None:
        """As in vLLM, only of a lone choice."""
        return self._tallies[0].metrics() if len(self._tallies) == 1 else None

    def _json(self, part: BaseModel) -> str:
        if self._shows_usage and not part.model_fields_set & {"usage"}:
            part = part.model_copy(update={"usage": None})
        return part.model_dump_json(exclude_unset=True)
