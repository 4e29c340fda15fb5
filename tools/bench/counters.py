"""A service's Prometheus counters, and how far they went on meanwhile."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families
from rounds import BenchError

from paceline.cli.stack import Service

TIMEOUT_S = 10.0

Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Counters:
    """Values by name and labels, at one moment or of a stretch of time."""

    values: Mapping[tuple[str, Labels], float]

    def since(self, earlier: Counters) -> Counters:
        """What came since then. A counter that was not there yet counted from 0."""
        return Counters({key: value - earlier.values.get(key, 0.0) for key, value in self.values.items()})

    def total(self, name: str, **labels: str) -> float:
        """Sum over all that have these labels, whatever others they have; 0 if there are none."""
        wanted = frozenset(labels.items())
        return sum(value for (found, has), value in self.values.items() if found == name and wanted <= has)

    def labels(self, name: str) -> list[dict[str, str]]:
        """The labels under which this name counts, as far as it has counted anything."""
        return [dict(has) for (found, has), value in self.values.items() if found == name and value]

    def by_position(self, name: str, **labels: str) -> list[int]:
        """Counts by the label `position`, from 0 up to the last that has counted anything."""
        positions = [int(has["position"]) for has in self.labels(name) if labels.items() <= has.items()]
        return [int(self.total(name, position=str(at), **labels)) for at in range(max(positions, default=-1) + 1)]


def parse_counters(text: str) -> Counters:
    """Of a page in Prometheus' text format."""
    return Counters(
        {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
    )


def read_counters(service: Service) -> Counters:
    """Of a service that was started with --metrics-listen 127.0.0.1:0; its log says where."""
    found = re.search(r"metrics\W.*?(127\.0\.0\.1:\d+)", service.log.read_text(errors="replace"))
    if found is None:
        raise BenchError(f"{service.name}'s log names no address of metrics; leave --metrics-listen to this tool")
    try:
        with urllib.request.urlopen(f"http://{found.group(1)}/metrics", timeout=TIMEOUT_S) as response:
            return parse_counters(response.read().decode())
    except (urllib.error.URLError, TimeoutError) as error:
        raise BenchError(f"{service.name}'s metrics can't be read: {error}") from error
