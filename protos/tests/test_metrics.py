"""Metrics over a real socket."""

from __future__ import annotations

import socket
import urllib.request
from urllib.error import URLError

import pytest
from prometheus_client import CollectorRegistry, Counter

from paceline.wire.metrics import MetricsServer
from paceline.wire.settings import StartupError


@pytest.fixture
def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    Counter("paceline:things", "Some", registry=registry).inc(3)
    return registry


def read(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10.0) as response:
        return response.read().decode()


def test_shows_what_is_counted_until_it_is_closed(registry: CollectorRegistry) -> None:
    server = MetricsServer("127.0.0.1:0", registry)
    assert "paceline:things_total 3.0" in read(server.address)
    server.close()
    with pytest.raises(URLError):
        read(server.address)


@pytest.mark.parametrize("listen", ["", "9000", "host:", ":9000", "127.0.0.1:x", "127.0.0.1:65536"])
def test_what_is_no_address_is_refused_by_name(registry: CollectorRegistry, listen: str) -> None:
    with pytest.raises(StartupError, match="--metrics-listen"):
        MetricsServer(listen, registry)


def test_a_port_in_use_is_said(registry: CollectorRegistry) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(StartupError, match="port 0 takes a free one"):
            MetricsServer(f"127.0.0.1:{taken.getsockname()[1]}", registry)
