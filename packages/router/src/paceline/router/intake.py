"""What every door does with requests before they are relayed: bounds, ids, seeds, places."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from paceline.router.admission import Admission
from paceline.router.backend import Backend
from paceline.router.checks import check_request
from paceline.router.convert import wish_from_proto
from paceline.router.countdown import TimeLeft, countdown, sooner
from paceline.router.relay import Relay
from paceline.v1 import generation_pb2


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
        self, requests: Sequence[generation_pb2.GenerateRequest], time_left: TimeLeft
    ) -> Iterator[list[Relay]]:
        """Relays for requests that belong together: all of them get a place, or none does. They hold it until exit.

        Args:
            requests: unset ids and seeds are drawn and set.
            time_left: until the client's deadline.

        Raises:
            PacelineError: what `check_request` says of any of them; DRAINING, OVERLOADED, DUPLICATE_REQUEST.
        """
        for request in requests:
            check_request(request)
            if not request.request_id:
                request.request_id = f"{self.random_bits(64):016x}"
            if not request.sampling.HasField("seed"):
                request.sampling.seed = self.random_bits(64)
        time_left = sooner(time_left, countdown(self._max_request_s, self.backend.clock))
        with ExitStack() as places:
            for request in requests:
                places.enter_context(self.admission.admitted(request.request_id))
            yield [
                Relay(request, wish_from_proto(request.speculation), self.backend, time_left) for request in requests
            ]
