"""Prometheus metrics of a service, over HTTP at /metrics on a port of their own."""

from __future__ import annotations

import socket
import ssl
import threading
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from paceline.wire.settings import StartupError
from paceline.wire.tls import ListeningTls

IDLE_S = 30.0


class MetricsServer:
    """Answers GET /metrics from threads of its own until `close`.

    Args:
        listen: host:port; port 0 takes a free one.
        registry: whose metrics to show.
        tls: of the service's ports; None for none.

    Attributes:
        address: the bound host:port.

    Raises:
        StartupError: not an address, or it can't be had.
    """

    def __init__(self, listen: str, registry: CollectorRegistry, tls: ListeningTls | None = None) -> None:
        host, _, port = listen.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            raise StartupError(f"--metrics-listen is {listen!r}; it must be host:port with a port up to 65535")
        try:
            self._server = _bound(host.removeprefix("[").removesuffix("]"), int(port))
        except OSError as error:
            raise StartupError(
                f"can't listen on {listen} for metrics: {error.strerror}; choose another with --metrics-listen "
                "host:port (port 0 takes a free one)"
            ) from error
        self._server.set_app(make_wsgi_app(registry))
        if tls is not None:
            self._server.socket = _wrapped(self._server.socket, tls)
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()
        self.address = f"{host}:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that broke, or whose handshake failed, is its client's affair."""


class _Handler(WSGIRequestHandler):
    timeout = IDLE_S  # a client that says nothing doesn't keep its thread

    def log_message(self, format: str, *args: object) -> None:
        """Scrapes are nothing to log."""


def _bound(host: str, port: int) -> _Server:
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    kind = type("_Server", (_Server,), {"address_family": family})
    server: _Server = kind((host, port), _Handler)
    return server


def _wrapped(listening: socket.socket, tls: ListeningTls) -> ssl.SSLSocket:
    """Handshakes happen when a connection's own thread reads first: one that never comes stops nobody else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.certificate, tls.key)
    if tls.client_ca is not None:
        context.load_verify_locations(tls.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context.wrap_socket(listening, server_side=True, do_handshake_on_connect=False)
