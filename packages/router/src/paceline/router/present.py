"""What the router shows Prometheus of how things stand: who is there, what runs, whether the store works."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from paceline.router.intake import Intake
from paceline.router.member import Role
from paceline.router.trials import Outcome


class Present(Collector):
    """What is so now, looked up when somebody asks. It belongs to the event loop: see `wire.registry.OnLoop`.

    Args:
        intake: of the router.
    """

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    def describe(self) -> Iterator[Metric]:
        return self.collect()

    def collect(self) -> Iterator[Metric]:
        yield from self._requests()
        yield from self._members()
        yield from self._learning()

    def _requests(self) -> Iterator[Metric]:
        admission, hedging = self._intake.admission, self._intake.backend.hedging
        yield GaugeMetricFamily("paceline:router_requests_running", "Requests in progress", admission.num_active)
        yield CounterMetricFamily(
            "paceline:router_requests_finished", "Requests that are over, however they ended", admission.num_finished
        )
        hedges = CounterMetricFamily(
            "paceline:router_hedges",
            "Second verifiers asked for a late first token, and those that had it first",
            labels=["result"],
        )
        hedges.add_metric(["sent"], hedging.num_sent)
        hedges.add_metric(["won"], hedging.num_won)
        yield hedges

    def _members(self) -> Iterator[Metric]:
        roster = self._intake.backend.roster
        members = GaugeMetricFamily("paceline:router_members", "Who is registered", labels=["role"])
        for role in Role:
            members.add_metric([role.value], len(roster.members(role)))
        yield members
        available = roster.available()
        yield GaugeMetricFamily(
            "paceline:router_verifiers_available", "Verifiers that take requests and are trusted", len(available)
        )
        yield GaugeMetricFamily(
            "paceline:router_session_capacity",
            "Sessions that available verifiers run at once",
            sum(verifier.capacity for verifier in available),
        )
        yield GaugeMetricFamily(
            "paceline:router_session_load",
            "Sessions that run or wait at available verifiers, as they announced last",
            sum(verifier.load for verifier in available),
        )

    def _learning(self) -> Iterator[Metric]:
        learner, trials = self._intake.backend.learner, self._intake.backend.trials
        policy = GaugeMetricFamily("paceline:router_policy_info", "How drafters are chosen", labels=["policy"])
        policy.add_metric([learner.name], 1)
        yield policy
        yield GaugeMetricFamily(
            "paceline:router_store_up", "1 while what is learnt can be stored, 0 while not", learner.store_up
        )
        yield CounterMetricFamily(
            "paceline:router_store_failures", "Times that the store could not be used", learner.num_store_failures
        )
        decided = CounterMetricFamily(
            "paceline:router_trials", "Trials of drafters' new revisions, by their verdict", labels=["outcome"]
        )
        for outcome in (Outcome.BETTER, Outcome.WORSE):
            decided.add_metric([outcome.value], trials.verdicts[outcome])
        yield decided
