"""Spans that are only kept: for tests of what code says of its work, without OpenTelemetry."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from paceline.wire.tracing import Attributes, Kind


@dataclass
class RecordedSpan:
    """A span; see `paceline.wire.tracing.Span`. `ends` has the error of each time it was ended."""

    spans: RecordedSpans
    name: str
    parent: str
    kind: Kind
    number: int
    began_s: float | None = None
    ended_s: float | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)

    @property
    def trace_id(self) -> str:
        return f"{1:032x}"

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.number:016x}-01"

    @property
    def error(self) -> str:
        """Of the first end, which is the one that counts."""
        return self.ends[0]

    def set(self, attributes: Attributes) -> None:
        self.attributes.update(attributes)

    def event(self, name: str, attributes: Attributes | None = None) -> None:
        self.events.append((name, dict(attributes or {})))

    def child(
        self,
        name: str,
        attributes: Attributes | None = None,
        kind: Kind = Kind.INTERNAL,
        began_s: float | None = None,
    ) -> RecordedSpan:
        child = self.spans.begin(name, self.traceparent, attributes, kind)
        child.began_s = began_s
        return child

    def end(self, error: str = "", at_s: float | None = None) -> None:
        self.ended_s = at_s if not self.ends else self.ended_s
        self.ends.append(error)


@dataclass
class RecordedSpans:
    """See `paceline.wire.tracing.Spans`. `all` are in the order of their beginning."""

    on: bool = True
    all: list[RecordedSpan] = field(default_factory=list)

    def begin(
        self, name: str, parent: str = "", attributes: Attributes | None = None, kind: Kind = Kind.INTERNAL
    ) -> RecordedSpan:
        span = RecordedSpan(self, name, parent, kind, len(self.all) + 1)
        span.set(attributes or {})
        self.all.append(span)
        return span

    def close(self) -> None:
        pass

    def named(self, name: str) -> list[RecordedSpan]:
        return [span for span in self.all if span.name == name]

    def one(self, name: str) -> RecordedSpan:
        (span,) = self.named(name)
        return span
