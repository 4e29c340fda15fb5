"""Spans, as a collector gets them; and nothing at all where nobody asked for them."""

from __future__ import annotations

import socket
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from span_collector import SpanCollector

from paceline.wire.settings import ObservedSettings, StartupError
from paceline.wire.tracing import (
    KEY,
    NO_SPAN,
    NO_SPANS,
    Kind,
    Spans,
    metadata_of,
    open_spans,
    traceparent_in,
    traceparent_of,
)

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
FROM_CLIENT = f"00-{TRACE}-{PARENT}-01"


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ENDPOINT", "TRACES_ENDPOINT", "PROTOCOL", "TRACES_PROTOCOL"):
        monkeypatch.delenv(f"OTEL_EXPORTER_OTLP_{name}", raising=False)
    for name in ("OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER", "OTEL_SERVICE_NAME", "OTEL_TRACES_SAMPLER"):
        monkeypatch.delenv(name, raising=False)


def opened(endpoint: str = "") -> Spans:
    return open_spans(ObservedSettings(otlp_endpoint=endpoint), "paceline-example", "1.2.3")


def test_without_an_endpoint_nothing_is_made_and_no_call_carries_anything() -> None:
    spans = opened()
    assert spans is NO_SPANS
    assert not spans.on
    span = spans.begin("work", FROM_CLIENT)
    assert span is NO_SPAN is span.child("part")
    assert (span.traceparent, span.trace_id, metadata_of(span)) == ("", "", None)


def test_parts_hang_below_their_span_and_that_below_whoever_asked() -> None:
    with SpanCollector() as collector:
        spans = opened(collector.address)
        span = spans.begin("work", FROM_CLIENT, {"size": 3, "name": "n" * 1000}, Kind.SERVER)
        now_s = time.monotonic()
        span.child("part", began_s=now_s - 2.0).end(at_s=now_s - 1.0)
        span.event("changed", {"to": "x"})
        span.set({"words": ["a", "b"]})
        assert metadata_of(span) == ((KEY, span.traceparent),)
        assert traceparent_in(metadata_of(span)) == span.traceparent
        spans.begin("below", span.traceparent).end("OVERLOADED")
        spans.begin("alone").end()
        span.end()
        span.end("INTERNAL")  # again is harmless
        spans.close()
        found = {span.name: span for span in collector.spans}
    work, part, below, alone = (found[name] for name in ("work", "part", "below", "alone"))
    assert (work.trace_id, work.parent, work.service) == (TRACE, PARENT, "paceline-example")
    assert {part.trace_id, below.trace_id} == {TRACE}
    assert {part.parent, below.parent} == {work.span_id}
    assert alone.trace_id != TRACE
    assert not alone.parent
    assert 0.9e9 < part.ended_ns - part.began_ns < 1.1e9
    assert abs(part.ended_ns - time.time_ns()) < 60e9
    assert work.events == ("changed",)
    assert work.attributes["words"] == ["a", "b"]
    assert work.attributes["size"] == 3
    assert len(work.attributes["name"]) == 200
    assert not work.failed
    assert below.failed
    assert below.attributes["error.type"] == "OVERLOADED"


def test_who_was_asked_not_to_trace_doesnt_and_says_so_to_others() -> None:
    with SpanCollector() as collector:
        spans = opened(collector.address)
        span = spans.begin("work", f"00-{TRACE}-{PARENT}-00")
        assert span.traceparent.startswith(f"00-{TRACE}-")
        assert span.traceparent.endswith("-00")
        span.end()
        spans.close()
        assert not collector.spans


def test_the_environment_names_the_collector_the_service_and_the_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    with SpanCollector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{collector.address}")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "named-by-env")
        spans = opened()
        spans.begin("work").end()
        spans.close()
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
        spans = opened()
        spans.begin("unseen").end()
        spans.close()
        assert [(span.service, span.name) for span in collector.spans] == [("named-by-env", "work")]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    with pytest.raises(StartupError, match="gRPC alone"):
        opened()
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    assert opened() is NO_SPANS
    monkeypatch.delenv("OTEL_TRACES_EXPORTER")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert opened("127.0.0.1:1") is NO_SPANS


@pytest.mark.parametrize("endpoint", ["4317", "host", "host:", "host:x", "host:65536", "ftp://h:1", "http://h:1/v1"])
def test_what_is_no_address_is_refused_by_name(endpoint: str) -> None:
    with pytest.raises(StartupError, match="--otlp-endpoint"):
        opened(endpoint)


def test_what_is_not_installed_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("opentelemetry", "paceline.wire.otlp"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(StartupError, match=r"pip install 'paceline-example\[traces\]'"):
        opened("127.0.0.1:4317")
    assert opened() is NO_SPANS  # who doesn't ask needs nothing


def test_a_collector_that_isnt_there_holds_up_the_end_for_some_seconds_at_most() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    spans = opened(address)
    spans.begin("work").end()
    begun = time.monotonic()
    spans.close()
    assert time.monotonic() - begun < 10.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01{' ' * 200}",
    ],
)
def test_what_is_no_traceparent_is_none(text: str) -> None:
    assert traceparent_of(text) == ""


def test_a_later_version_is_read_as_far_as_it_is_known() -> None:
    assert traceparent_of(f" 01-{TRACE}-{PARENT}-03-what.ever ") == FROM_CLIENT
    assert traceparent_in([("x", "y"), (KEY, FROM_CLIENT.encode())]) == FROM_CLIENT
    assert traceparent_in(None) == ""


@given(st.text() | st.binary())
def test_whatever_comes_is_a_traceparent_or_nothing(value: str | bytes) -> None:
    found = traceparent_of(value)
    assert found == "" or traceparent_of(found) == found
