"""An OpenTelemetry collector in the process: a real gRPC server that keeps what it gets, for any tests."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

DEADLINE_S = 30.0


@dataclass(frozen=True)
class Seen:
    """A span that arrived. Ids are hex; `parent` is empty for a root."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent: str
    began_ns: int
    ended_ns: int
    failed: bool
    attributes: dict[str, Any] = field(hash=False)
    events: tuple[str, ...]


class SpanCollector(trace_service_pb2_grpc.TraceServiceServicer):
    """Use as a context manager.

    Attributes:
        address: host:port.
        raw: everything that was received, as it came.
    """

    def __init__(self) -> None:
        self.raw: list[bytes] = []
        self._spans: list[Seen] = []
        self._arrived = threading.Condition()
        self._server = grpc.server(ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> SpanCollector:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()

    def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        with self._arrived:
            self.raw.append(request.SerializeToString())
            for resource in request.resource_spans:
                service = _attributes(resource.resource.attributes)["service.name"]
                for scope in resource.scope_spans:
                    self._spans += [_seen(service, span) for span in scope.spans]
            self._arrived.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    @property
    def spans(self) -> list[Seen]:
        with self._arrived:
            return list(self._spans)

    def wait(self, *wanted: tuple[str, str]) -> list[Seen]:
        """Until there is at least one span of each of these services and names; returns all there are."""
        deadline = time.monotonic() + DEADLINE_S
        with self._arrived:
            while missing := set(wanted) - {(span.service, span.name) for span in self._spans}:
                left_s = deadline - time.monotonic()
                assert self._arrived.wait(max(0.0, left_s)), f"no span of {sorted(missing)}"
            return list(self._spans)


def _attributes(pairs: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in pairs:
        kind = pair.value.WhichOneof("value")
        value = getattr(pair.value, kind)
        found[pair.key] = [one.string_value for one in value.values] if kind == "array_value" else value
    return found


def _seen(service: str, span: Any) -> Seen:
    return Seen(
        service=service,
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        began_ns=span.start_time_unix_nano,
        ended_ns=span.end_time_unix_nano,
        failed=span.status.code == 2,
        attributes=_attributes(span.attributes),
        events=tuple(event.name for event in span.events),
    )
