"""Watches sessions for Prometheus and, where the verifier traces them, for OpenTelemetry."""

from __future__ import annotations

import time

from paceline.drafter.metrics import Metrics
from paceline.drafter.opening import Opening
from paceline.drafter.watch import SessionWatch
from paceline.wire.tracing import NO_SPAN, Attributes, Kind, Span, Spans


class Observing:
    """A `Watch`.

    Args:
        metrics: that count.
        spans: that tell of each session.
        told: of this drafter, with every span.
    """

    def __init__(self, metrics: Metrics, spans: Spans, told: Attributes) -> None:
        self._metrics = metrics
        self._spans = spans
        self._told = told

    def stream(self, up: bool) -> None:
        self._metrics.streams.inc(1 if up else -1)

    def opened(self, opening: Opening) -> SessionWatch:
        metrics = self._metrics
        metrics.sessions.inc()
        metrics.opened.labels("true" if opening.shadow else "false").inc()
        span = NO_SPAN
        if self._spans.on and opening.traceparent:
            told = {**self._told, "paceline.session_id": f"{opening.session_id:x}"}
            span = self._spans.begin("draft", opening.traceparent, told, Kind.CONSUMER)
        return _Observed(metrics, span)

    def noted(self, what: str) -> None:
        self._metrics.events.labels(what).inc()


class _Observed:
    """One session. Its span has counts, not a span for each draft."""

    def __init__(self, metrics: Metrics, span: Span) -> None:
        self._metrics = metrics
        self._span = span
        self._num_drafts = 0
        self._num_nodes = 0
        self._num_trees = 0
        self._num_committed = 0
        self._draft_s = 0.0
        self._began_s = 0.0
        self._ended = False

    def drafting(self) -> None:
        self._began_s = time.perf_counter()

    def drafted(self, strategy: int, num_nodes: int, seconds: float | None = None) -> None:
        metrics = self._metrics
        if seconds is None:
            now_s = time.perf_counter()
            seconds, self._began_s = now_s - self._began_s, now_s
        metrics.drafts[strategy].inc()
        metrics.nodes[strategy].inc(num_nodes)
        metrics.seconds[strategy].observe(seconds)
        self._num_drafts += 1
        self._num_nodes += num_nodes
        self._draft_s += seconds

    def sent(self, num_nodes: int) -> None:
        self._metrics.trees.inc()
        self._metrics.tree_nodes.inc(num_nodes)
        self._num_trees += 1

    def committed(self, num_tokens: int) -> None:
        self._metrics.committed.inc(num_tokens)
        self._num_committed += num_tokens

    def ended(self) -> None:
        if self._ended:
            return
        self._ended = True
        self._metrics.sessions.dec()
        self._span.set(
            {
                "paceline.drafts": self._num_drafts,
                "paceline.draft_tokens": self._num_nodes,
                "paceline.trees": self._num_trees,
                "paceline.draft_s": self._draft_s,
                "paceline.committed_tokens": self._num_committed,
            }
        )
        self._span.end()
