"""What the router shows Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from paceline.router.intake import Intake
from paceline.router.member import Role


class Metrics:
    """The router's metrics.

    Attributes:
        registry: of these metrics and no others.
    """

    def __init__(self, intake: Intake) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Present(intake))
        self._responses = Counter(
            "paceline:http_responses", "HTTP responses", ("route", "status"), registry=self.registry
        )

    def responded(self, route: str, status: int) -> None:
        self._responses.labels(route, str(status)).inc()


class _Present(Collector):
    """What is so now, looked up when somebody asks."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    def collect(self) -> Iterator[Metric]:
        admission, roster = self._intake.admission, self._intake.backend.roster
        yield GaugeMetricFamily("paceline:router_requests_running", "Requests in progress", admission.num_active)
        yield CounterMetricFamily(
            "paceline:router_requests_finished", "Requests that are over, however they ended", admission.num_finished
        )
        members = GaugeMetricFamily("paceline:router_members", "Who is registered", labels=["role"])
        for role in Role:
            members.add_metric([role.value], len(roster.members(role)))
        yield members
        hedging = self._intake.backend.hedging
        hedges = CounterMetricFamily(
            "paceline:router_hedges",
            "Second verifiers asked for a late first token, and those that had it first",
            labels=["result"],
        )
        hedges.add_metric(["sent"], hedging.num_sent)
        hedges.add_metric(["won"], hedging.num_won)
        yield hedges
