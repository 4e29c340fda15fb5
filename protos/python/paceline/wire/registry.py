"""What metrics are made with: a registry that says who it is of, bounds on labels, figures that are read when asked."""

from __future__ import annotations

import asyncio
import platform
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Info, ProcessCollector, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from paceline.wire.version import PROTOCOL_MAJOR, PROTOCOL_MINOR

OTHERS = "others"
MAX_NAMES = 64
COLLECT_S = 5.0

Row = tuple[Sequence[str], float]
"""Values of the labels, and the figure."""


def new_registry(service: str, version: str) -> CollectorRegistry:
    """A registry with the process (memory, CPU, files) and what it runs in it.

    Args:
        service: verifier, router, …
        version: of its package.
    """
    disable_created_metrics()  # a second time series for each, of when it began
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    build = Info("paceline:build", "What runs", registry=registry)
    build.info(
        {
            "service": service,
            "version": version,
            "protocol": f"{PROTOCOL_MAJOR}.{PROTOCOL_MINOR}",
            "python": platform.python_version(),
        }
    )
    return registry


class Names:
    """Bounds the values of a label: strangers choose names, and each is a time series, for ever.

    Args:
        most: that are told apart; what comes later is one.
    """

    def __init__(self, most: int = MAX_NAMES) -> None:
        self._most = most
        self._known: set[tuple[str, ...]] = set()

    def of(self, name: str) -> str:
        """The name, or "others"."""
        return self.all_of(name)[0]

    def all_of(self, *names: str) -> tuple[str, ...]:
        """Several labels that are told apart together: all of them, or "others" for each."""
        if names not in self._known:
            if len(self._known) >= self._most:
                return (OTHERS,) * len(names)
            self._known.add(names)
        return names


class Reading(Collector):
    """One figure, or one for each of some labels, looked up when somebody asks.

    Args:
        registry: to show it in.
        kind: "gauge" or "counter".
        name: without _total.
        text: what it is.
        read: the figures; called in any thread.
        labels: of each.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        kind: str,
        name: str,
        text: str,
        read: Callable[[], Iterable[Row]],
        labels: Sequence[str] = (),
    ) -> None:
        self._family = {"gauge": GaugeMetricFamily, "counter": CounterMetricFamily}[kind]
        self._name, self._text, self._labels = name, text, labels
        self._read = read
        registry.register(self)

    def describe(self) -> Iterator[Metric]:
        """Its name, without looking anything up."""
        yield self._family(self._name, self._text, labels=self._labels)

    def collect(self) -> Iterator[Metric]:
        family = self._family(self._name, self._text, labels=self._labels)
        for values, figure in self._read():
            family.add_metric(list(values), figure)
        yield family


class Figures:
    """Readings without labels, one line each.

    Args:
        registry: to show them in.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        Reading(self._registry, "gauge", name, text, lambda: [((), read())])

    def counter(self, name: str, text: str, read: Callable[[], float]) -> None:
        Reading(self._registry, "counter", name, text, lambda: [((), read())])


class OnLoop(Collector):
    """A collector whose figures belong to an event loop's thread: they are gathered there, whoever asks.

    Args:
        inner: the collector.
        loop: that runs as long as somebody may ask.
    """

    def __init__(self, inner: Collector, loop: asyncio.AbstractEventLoop) -> None:
        self._inner = inner
        self._loop = loop
        self._thread = threading.get_ident()

    def describe(self) -> Iterable[Metric]:
        return self._inner.describe() if hasattr(self._inner, "describe") else ()

    def collect(self) -> Iterable[Metric]:
        """Raises TimeoutError if the loop has no time for it."""
        if threading.get_ident() == self._thread:
            return list(self._inner.collect())

        async def gathered() -> list[Metric]:
            return list(self._inner.collect())

        return asyncio.run_coroutine_threadsafe(gathered(), self._loop).result(COLLECT_S)
