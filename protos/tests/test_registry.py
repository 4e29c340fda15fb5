"""What metrics are made with."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from paceline.wire.registry import OTHERS, Figures, Names, OnLoop, Reading, new_registry
from paceline.wire.version import PROTOCOL_MAJOR, PROTOCOL_MINOR


def shown(registry: CollectorRegistry) -> str:
    return generate_latest(registry).decode()


def test_a_registry_tells_what_runs_and_what_it_takes() -> None:
    registry = new_registry("example", "1.2.3")
    Counter("paceline:things", "Some", registry=registry).inc()
    text = shown(registry)
    assert f'protocol="{PROTOCOL_MAJOR}.{PROTOCOL_MINOR}"' in text
    assert 'service="example"' in text
    assert 'version="1.2.3"' in text
    assert "process_resident_memory_bytes" in text
    assert "process_cpu_seconds_total" in text
    assert "_created" not in text


def test_names_are_told_apart_up_to_a_bound() -> None:
    names = Names(2)
    assert [names.of(name) for name in "abcab"] == ["a", "b", OTHERS, "a", "b"]


def test_figures_are_read_each_time_somebody_looks() -> None:
    registry, now = CollectorRegistry(), {"x": 1.0}
    figures = Figures(registry)
    figures.gauge("paceline:now", "Now", lambda: now["x"])
    figures.counter("paceline:done", "Done", lambda: 2 * now["x"])
    Reading(registry, "gauge", "paceline:each", "Each", lambda: [(("a",), 1), (("b",), 2)], ("name",))
    now["x"] = 5.0
    text = shown(registry)
    assert "paceline:now 5.0" in text
    assert "paceline:done_total 10.0" in text
    assert 'paceline:each{name="b"} 2.0' in text
    with pytest.raises(ValueError, match="Duplicated"):
        figures.gauge("paceline:now", "Again", lambda: 0.0)


async def test_what_belongs_to_the_loop_is_gathered_there_whoever_asks() -> None:
    threads: list[int] = []

    class Picky(Collector):
        def describe(self) -> Iterator[Metric]:
            yield GaugeMetricFamily("paceline:picky", "x")

        def collect(self) -> Iterator[Metric]:
            threads.append(threading.get_ident())
            yield GaugeMetricFamily("paceline:picky", "x", 1.0)

    registry = CollectorRegistry()
    registry.register(OnLoop(Picky(), asyncio.get_running_loop()))
    assert "paceline:picky 1.0" in await asyncio.to_thread(shown, registry)
    assert "paceline:picky 1.0" in shown(registry)
    assert threads == [threading.get_ident()] * 2
