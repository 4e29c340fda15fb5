"""What metrics there are: the tables of docs/metrics.md, which a test compares with running services."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_HEADING = re.compile(r"^## (.+)$")
_ROW = re.compile(r"^\| `([a-zA-Z_:][a-zA-Z0-9_:]*)` \| (gauge|counter|histogram|summary) \| ([^|]*) \| ([^|]+) \|$")
_LABEL = re.compile(r"`([a-z_]+)`")


@dataclass(frozen=True, slots=True)
class Documented:
    """One metric: `kind` is gauge, counter, histogram or summary; counters' names end in _total."""

    name: str
    kind: str
    labels: frozenset[str]
    text: str


@dataclass(frozen=True, slots=True)
class Series:
    """What a query may name: its labels without `job` and `instance`. `grows`: only its rate says something."""

    labels: frozenset[str]
    grows: bool


def read_catalogue(path: Path) -> dict[str, dict[str, Documented]]:
    """By section, the metrics by name. Raises ValueError for a line that looks like a row and isn't one."""
    found: dict[str, dict[str, Documented]] = {}
    section = ""
    for line in path.read_text().splitlines():
        if heading := _HEADING.match(line):
            section = heading[1]
        elif line.startswith("| `"):
            row = _ROW.match(line)
            if row is None:
                raise ValueError(f"no row of the form name, type, labels, what: {line}")
            metric = Documented(row[1], row[2], frozenset(_LABEL.findall(row[3])), row[4].strip())
            if metric.name in found.setdefault(section, {}):
                raise ValueError(f"{metric.name} is twice in {section}")
            found[section][metric.name] = metric
    return found


def series_of(metrics: Iterable[Documented]) -> dict[str, Series]:
    """The time series behind metrics, by name."""
    series: dict[str, Series] = {}
    for metric in metrics:
        if metric.kind in ("histogram", "summary"):
            series[f"{metric.name}_sum"] = series[f"{metric.name}_count"] = Series(metric.labels, True)
        if metric.kind == "histogram":
            series[f"{metric.name}_bucket"] = Series(metric.labels | {"le"}, True)
        if metric.kind in ("gauge", "counter"):
            series[metric.name] = Series(metric.labels, metric.kind == "counter")
    return series


def all_series(catalogue: Mapping[str, Mapping[str, Documented]]) -> dict[str, Series]:
    """Of all sections, and what Prometheus itself adds."""
    metrics = [metric for section in catalogue.values() for metric in section.values()]
    return {"up": Series(frozenset(), False), **series_of(metrics)}
