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
from paceline.router.relay import Relay
from paceline.v1 import generation_pb2
from paceline.wire.errors import PacelineError


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
    ) -> Iterator[list[Answering]]:
        """Requests that belong together, in progress: all of them get a place, or none does. They hold it until exit.

        Args:
            requests: unset ids and seeds are drawn and set, and tenants are those of the caller.
            time_left: until the client's deadline.
            caller: on whose behalf.

        Raises:
            PacelineError: what `check_request` says of any of them; DRAINING, OVERLOADED, DUPLICATE_REQUEST;
                RATE_LIMITED, PROMPT_TOO_LONG or OUT_OF_RANGE for more than the caller's tenant may use.
        """
        for request in requests:
            check_request(request)
            self._complete(request, caller)
        time_left = sooner(time_left, countdown(self._max_request_s, self.backend.clock))
        with ExitStack() as places:
            self._enter(places, requests, caller.quota)
            yield [self._begun(request, time_left, caller.quota) for request in requests]

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
    ) -> Answering:
        relay = Relay(request, wish_from_proto(request.speculation), self.backend, time_left)
        return relay if quota is None else Metered(relay, quota, self.backend.clock)
