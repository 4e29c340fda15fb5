"""Prometheus metrics of a service, over HTTP at /metrics on a port of their own."""

from __future__ import annotations

from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server

from paceline.wire.settings import StartupError


class MetricsServer:
    """Answers GET /metrics from a thread of its own until `close`.

    Args:
        listen: host:port; port 0 takes a free one.
        registry: whose metrics to show.

    Attributes:
        address: the bound host:port.

    Raises:
        StartupError: not an address, or it can't be had.
    """

    def __init__(self, listen: str, registry: CollectorRegistry) -> None:
        host, _, port = listen.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            raise StartupError(f"--metrics-listen is {listen!r}; it must be host:port with a port up to 65535")
        try:
            self._server: WSGIServer
            self._server, self._thread = start_http_server(int(port), host, registry)
        except OSError as error:
            raise StartupError(
                f"can't listen on {listen} for metrics: {error.strerror}; choose another with --metrics-listen "
                "host:port (port 0 takes a free one)"
            ) from error
        self.address = f"{host}:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
