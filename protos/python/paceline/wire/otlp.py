"""Spans that go to an OpenTelemetry collector, from a thread of the SDK's. Needs the extra [traces]."""

from __future__ import annotations

import logging
import secrets
import threading
import time

import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace import Span as SdkSpan

from paceline.wire.tracing import MAX_TEXT, Attributes, Kind, Span, Value

log = structlog.get_logger()

CLOSE_S = 3.0  # that a collector gets for the last spans
_KINDS = {
    Kind.INTERNAL: SpanKind.INTERNAL,
    Kind.SERVER: SpanKind.SERVER,
    Kind.CLIENT: SpanKind.CLIENT,
    Kind.CONSUMER: SpanKind.CONSUMER,
}


class OtlpSpans:
    """See `tracing.Spans`.

    Args:
        endpoint: http://host:port or https://host:port of a collector.
        service, version: who makes them.
    """

    on = True

    def __init__(self, endpoint: str, service: str, version: str) -> None:
        # An outage of the collector is said once a batch, not once a try.
        logging.getLogger("opentelemetry.exporter.otlp").setLevel(logging.ERROR)
        told = {"service.name": service, "service.version": version, "service.instance.id": secrets.token_hex(8)}
        resource = Resource(told).merge(OTELResourceDetector().detect())
        self._exporter = OTLPSpanExporter(endpoint=endpoint)
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("paceline", version)
        log.info("traces", endpoint=endpoint)

    def begin(
        self, name: str, parent: str = "", attributes: Attributes | None = None, kind: Kind = Kind.INTERNAL
    ) -> Span:
        return self._made(name, _context_of(parent), attributes, kind, None)

    def _made(
        self,
        name: str,
        parent: SdkSpan | None,
        attributes: Attributes | None,
        kind: Kind,
        began_s: float | None,
    ) -> Span:
        # Always with a context of its own: nothing is taken over from a task that happens to run.
        context = Context() if parent is None else set_span_in_context(parent, Context())
        span = self._tracer.start_span(
            name, context, _KINDS[kind], _bounded(attributes or {}), start_time=_unix_ns(began_s)
        )
        return _OtlpSpan(self, span)

    def close(self) -> None:
        closing = threading.Thread(target=self._provider.shutdown, name="spans", daemon=True)
        closing.start()
        closing.join(CLOSE_S)
        if closing.is_alive():
            log.warning("the last spans were not taken by the collector in time", seconds=CLOSE_S)
            self._exporter.shutdown()


class _OtlpSpan:
    def __init__(self, spans: OtlpSpans, span: SdkSpan) -> None:
        self._spans = spans
        self._span = span
        self._ended = False

    @property
    def traceparent(self) -> str:
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & 1:02x}"

    @property
    def trace_id(self) -> str:
        return f"{self._span.get_span_context().trace_id:032x}"

    def set(self, attributes: Attributes) -> None:
        self._span.set_attributes(_bounded(attributes))

    def event(self, name: str, attributes: Attributes | None = None) -> None:
        self._span.add_event(name, _bounded(attributes or {}))

    def child(
        self,
        name: str,
        attributes: Attributes | None = None,
        kind: Kind = Kind.INTERNAL,
        began_s: float | None = None,
    ) -> Span:
        return self._spans._made(name, self._span, attributes, kind, began_s)

    def end(self, error: str = "", at_s: float | None = None) -> None:
        if self._ended:
            return
        self._ended = True
        if error:
            self._span.set_attribute("error.type", error[:MAX_TEXT])
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end(_unix_ns(at_s))


def _context_of(traceparent: str) -> SdkSpan | None:
    if not traceparent:
        return None
    _, trace_id, span_id, flags = traceparent.split("-")
    return NonRecordingSpan(
        SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))
    )


def _unix_ns(monotonic_s: float | None) -> int | None:
    if monotonic_s is None:
        return None
    return time.time_ns() - round((time.monotonic() - monotonic_s) * 1e9)


def _bounded(attributes: Attributes) -> dict[str, Value]:
    """Names that strangers chose are cut."""
    return {key: value[:MAX_TEXT] if isinstance(value, str) else value for key, value in attributes.items()}
