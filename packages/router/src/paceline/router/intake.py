"""What every door does with requests before they are relayed: bounds, ids, seeds, places."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from paceline.router.access.access import ANYBODY, Caller
from paceline.router.access.metered import Answering, Metered
from paceline.router.access.quota import Quota
from paceline.router.access.sizes import bound_answer, check_sizes
from paceline.router.admission import Admission
from paceline.router.backend import Backend
from paceline.router.checks import check_request
from paceline.router.convert import wish_from_proto
from paceline.router.countdown import TimeLeft, countdown, sooner
from paceline.router.observed import Observed
from paceline.router.relay import Relay
from paceline.v1 import generation_pb2
from paceline.wire.errors import PacelineError
from paceline.wire.tracing import NO_SPAN, Kind, Span


class Intake:
    """Turns requests into relays, for gRPC and HTTP alike.

    Args:
        backend: shared parts.
        admission: bound on requests.
        random_bits: draws seeds and request ids, for requests that bring none.
        max_request_s: that any request may take; None for no bound.
    """

    def __init__(
        self,
        backend: Backend,
        admission: Admission,
        random_bits: Callable[[int], int] = secrets.randbits,
        max_request_s: float | None = None,
    ) -> None:
        self.backend = backend
        self.admission = admission
        self.random_bits = random_bits
        self._max_request_s = max_request_s

    @contextmanager
    def accepted(
        self,
        requests: Sequence[generation_pb2.GenerateRequest],
        time_left: TimeLeft,
        caller: Caller = ANYBODY,
        traceparent: str = "",
    ) -> Iterator[list[Answering]]:
        """Requests that belong together, in progress: all of them get a place, or none does. They hold it until exit.

        Args:
            requests: unset ids and seeds are drawn and set, and tenants are those of the caller.
            time_left: until the client's deadline.
            caller: on whose behalf.
            traceparent: of the client's span; empty if it has none.

        Raises:
            PacelineError: what `check_request` says of any of them; DRAINING, OVERLOADED, DUPLICATE_REQUEST;
                RATE_LIMITED, PROMPT_TOO_LONG or OUT_OF_RANGE for more than the caller's tenant may use.
        """
        time_left = sooner(time_left, countdown(self._max_request_s, self.backend.clock))
        with ExitStack() as places:
            try:
                for request in requests:
                    check_request(request)
                    self._complete(request, caller)
                self._enter(places, requests, caller.quota)
            except PacelineError as error:
                self.backend.metrics.refused(error.reason.value)
                raise
            spans = [self._span(request, traceparent) for request in requests]
            for span in spans:
                places.callback(span.end)  # of one whose events nobody asked for
            yield [
                self._begun(request, time_left, caller.quota, span)
                for request, span in zip(requests, spans, strict=True)
            ]

    def _span(self, request: generation_pb2.GenerateRequest, traceparent: str) -> Span:
        if not self.backend.spans.on:
            return NO_SPAN
        told = {
            "gen_ai.operation.name": "chat" if request.WhichOneof("prompt") == "messages" else "text_completion",
            "gen_ai.response.id": request.request_id,
            "gen_ai.request.temperature": request.sampling.temperature,
            "gen_ai.request.max_tokens": request.limits.max_tokens,
        }
        return self.backend.spans.begin("request", traceparent, told, Kind.SERVER)

    def _complete(self, request: generation_pb2.GenerateRequest, caller: Caller) -> None:
        request.tenant = caller.tenant_for(request.tenant)
        if caller.quota is not None:
            check_sizes(request, caller.quota)
            bound_answer(request, caller.quota)
        if not request.request_id:
            request.request_id = f"{self.random_bits(64):016x}"
        if not request.sampling.HasField("seed"):
            request.sampling.seed = self.random_bits(64)

    def _enter(
        self, places: ExitStack, requests: Sequence[generation_pb2.GenerateRequest], quota: Quota | None
    ) -> None:
        clock = self.backend.clock
        if quota is not None:
            quota.enter(len(requests), clock())
            places.callback(quota.leave, len(requests))
        try:
            for request in requests:
                places.enter_context(self.admission.admitted(request.request_id))
        except PacelineError:
            if quota is not None:
                quota.forget(len(requests), clock())
            raise

    def _begun(
        self,
        request: generation_pb2.GenerateRequest,
        time_left: TimeLeft,
        quota: Quota | None,
        span: Span,
    ) -> Answering:
        backend = self.backend
        relay = Relay(request, wish_from_proto(request.speculation), backend, time_left, span)
        answering = relay if quota is None else Metered(relay, quota, backend.clock)
        return Observed(answering, backend.metrics, span, backend.clock)
