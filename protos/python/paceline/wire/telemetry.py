"""What a process shows of itself: metrics for Prometheus, spans for OpenTelemetry."""

from __future__ import annotations

import asyncio

import structlog
from prometheus_client import CollectorRegistry

from paceline.wire.metrics import MetricsServer
from paceline.wire.registry import new_registry
from paceline.wire.settings import ObservedSettings, ServiceSettings
from paceline.wire.tls import listening_tls
from paceline.wire.tracing import Spans, open_spans

log = structlog.get_logger()


class Telemetry:
    """Use: make it, put metrics into `registry`, `open` it when others may look, `close` it in the end.

    Args:
        settings: of the process.
        service: verifier, router, …
        version: of its package.
        package: its name; empty: paceline-<service>.

    Attributes:
        registry: of all metrics.
        spans: makes spans, or nothing.
        address: host:port of the metrics; empty if they have no port.

    Raises:
        StartupError: see `tracing.open_spans`.
    """

    def __init__(self, settings: ObservedSettings, service: str, version: str, package: str = "") -> None:
        self._settings = settings
        self.registry: CollectorRegistry = new_registry(service, version)
        self.spans: Spans = open_spans(settings, package or f"paceline-{service}", version)
        self._server: MetricsServer | None = None
        self.address = ""

    def open(self) -> None:
        """Shows the metrics, if they are to have a port. Raises StartupError."""
        if not self._settings.metrics_listen:
            return
        tls = listening_tls(self._settings) if isinstance(self._settings, ServiceSettings) else None
        self._server = MetricsServer(self._settings.metrics_listen, self.registry, tls)
        self.address = self._server.address
        log.info("metrics", address=self.address)

    async def close(self) -> None:
        """Sends the last spans. Again is harmless."""
        server, self._server = self._server, None
        if server is not None:
            await asyncio.to_thread(server.close)
        if self.spans.on:
            await asyncio.to_thread(self.spans.close)
