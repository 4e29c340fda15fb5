"""Spans: what one request went through, over all services. Nothing is made, sent or imported unless it is switched on.

Context travels as W3C's `traceparent`: an HTTP header, gRPC metadata, or a field of a message. Whoever makes a child of
a span is given the span or its `traceparent`; nothing hangs on the running task. Spans never have prompts, answers,
tokens or secrets in them, nor messages of errors, which may quote a request: only names, counts and times.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Protocol

from paceline.wire.settings import ObservedSettings, StartupError

KEY = "traceparent"
MAX_TEXT = 200  # characters of an attribute

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")

Value = str | bool | int | float | Sequence[str]
Attributes = Mapping[str, Value]


class Kind(Enum):
    """What a span is to the process: it was asked (SERVER), asks (CLIENT), was told of work (CONSUMER), or works."""

    INTERNAL = "internal"
    SERVER = "server"
    CLIENT = "client"
    CONSUMER = "consumer"


class Span(Protocol):
    """A stretch of time with a name. Times are monotonic seconds; None is now.

    Attributes:
        traceparent: for those that this one has work done; empty if nothing is traced.
        trace_id: for logs; empty if nothing is traced.
    """

    @property
    def traceparent(self) -> str: ...

    @property
    def trace_id(self) -> str: ...

    def set(self, attributes: Attributes) -> None:
        """More that is known of it."""
        ...

    def event(self, name: str, attributes: Attributes | None = None) -> None:
        """Something that happened at one moment of it."""
        ...

    def child(
        self,
        name: str,
        attributes: Attributes | None = None,
        kind: Kind = Kind.INTERNAL,
        began_s: float | None = None,
    ) -> Span:
        """A part of it; `end` is owed."""
        ...

    def end(self, error: str = "", at_s: float | None = None) -> None:
        """It is over. error: why it failed, as one of the words that programs branch on. Again is harmless."""
        ...


class Spans(Protocol):
    """Makes spans.

    Attributes:
        on: whether anything comes of them; where it doesn't, nothing need be gathered for them.
    """

    on: bool

    def begin(
        self, name: str, parent: str = "", attributes: Attributes | None = None, kind: Kind = Kind.INTERNAL
    ) -> Span:
        """A span below the one that `parent`, a traceparent, names, or the root of a new trace; `end` is owed."""
        ...

    def close(self) -> None:
        """Sends what is left; takes some seconds at most."""
        ...


class _NoSpan:
    traceparent = ""
    trace_id = ""

    def set(self, attributes: Attributes) -> None:
        pass

    def event(self, name: str, attributes: Attributes | None = None) -> None:
        pass

    def child(
        self,
        name: str,
        attributes: Attributes | None = None,
        kind: Kind = Kind.INTERNAL,
        began_s: float | None = None,
    ) -> Span:
        return self

    def end(self, error: str = "", at_s: float | None = None) -> None:
        pass


class _NoSpans:
    on = False

    def begin(
        self, name: str, parent: str = "", attributes: Attributes | None = None, kind: Kind = Kind.INTERNAL
    ) -> Span:
        return NO_SPAN

    def close(self) -> None:
        pass


NO_SPAN: Span = _NoSpan()
NO_SPANS: Spans = _NoSpans()


def traceparent_of(value: str | bytes | None) -> str:
    """A traceparent that somebody sent, as version 00 writes it; empty if it is none, which fails no request."""
    text = value.decode("latin-1") if isinstance(value, bytes) else value or ""
    match = _TRACEPARENT.fullmatch(text.strip()) if len(text) <= MAX_TEXT else None
    if match is None:
        return ""
    version, trace_id, span_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16):
        return ""
    return f"00-{trace_id}-{span_id}-{int(flags, 16) & 1:02x}"


def traceparent_in(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """The same of a call's metadata."""
    return traceparent_of(next((value for key, value in metadata or () if key == KEY), None))


def metadata_of(span: Span) -> tuple[tuple[str, str], ...] | None:
    """What a call that belongs to a span carries; None, as without traces, if there is none."""
    return ((KEY, span.traceparent),) if span.traceparent else None


def open_spans(settings: ObservedSettings, service: str, version: str) -> Spans:
    """Spans that go where --otlp-endpoint or OTEL_EXPORTER_OTLP_ENDPOINT says, or nowhere.

    The other variables of OpenTelemetry's SDK count too: OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES,
    OTEL_TRACES_SAMPLER, OTEL_BSP_…, OTEL_EXPORTER_OTLP_HEADERS and so on; OTEL_SDK_DISABLED=true and
    OTEL_TRACES_EXPORTER=none switch traces off.

    Args:
        service: name of its package, e.g. paceline-router.
        version: of it.

    Raises:
        StartupError: not an address; another protocol than gRPC is asked for; OpenTelemetry isn't installed.
    """
    environment = os.environ
    disabled = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if disabled or environment.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none":
        return NO_SPANS
    source, endpoint = "--otlp-endpoint", settings.otlp_endpoint.strip()
    if not endpoint:
        source = next((name for name in _ENDPOINTS if environment.get(name, "").strip()), "")
        if not source:
            return NO_SPANS
        endpoint = environment[source].strip()
        protocol = next((environment[name].strip() for name in _PROTOCOLS if environment.get(name, "").strip()), "grpc")
        if protocol != "grpc":
            raise StartupError(
                f"{source} is set with the protocol {protocol!r}, but spans go by gRPC alone: give --otlp-endpoint "
                "host:port of a collector's gRPC port, or set OTEL_TRACES_EXPORTER=none"
            )
    _check_endpoint(source, endpoint)
    try:
        from paceline.wire.otlp import OtlpSpans
    except ModuleNotFoundError as error:
        raise StartupError(f"{source} needs {error.name}: pip install '{service}[traces]'") from error
    return OtlpSpans(endpoint if "://" in endpoint else f"http://{endpoint}", service, version)


def _check_endpoint(source: str, endpoint: str) -> None:
    scheme, separator, rest = endpoint.rpartition("://")
    host, _, port = rest.rstrip("/").rpartition(":")
    good = host and port.isdigit() and 0 < int(port) <= 65535 and not set("/@?# ") & set(host)
    if not good or (separator and scheme not in ("http", "https")):
        raise StartupError(
            f"{source} is {endpoint[:MAX_TEXT]!r}; it must be host:port, http://host:port or https://host:port with a "
            "port from 1 to 65535"
        )
