"""What the router counts for Prometheus: requests as clients see them, choices and what they earned."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary

from paceline.router.arms import Arm
from paceline.router.failures import Verdict
from paceline.wire.registry import Names

FIRST_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
    *(160.0, 640.0, 2560.0),
)
REQUEST_S = (
    *(0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0),
    *(240.0, 480.0, 960.0, 1920.0, 7680.0),
)
MAX_MODELS = 32
MAX_ARMS = 256  # pairs of a model and an arm: drafters choose their names
ABORT, ERROR, REFUSED = "abort", "error", "refused"


class Metrics:
    """The router's metrics. A call takes some microseconds.

    Args:
        registry: to show them in.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._models = Names(MAX_MODELS)
        self._arms = Names(MAX_ARMS)
        self._requests = Counter(
            "paceline:router_requests",
            "Requests that are over: stop, length, abort (the client left), error, or refused (they got no place)",
            ["model", "outcome"],
            registry=registry,
        )
        self._errors = Counter(
            "paceline:router_request_errors",
            "Requests that failed or were refused, by Paceline's reason or gRPC's code",
            ["reason"],
            registry=registry,
        )
        self._first_token = Histogram(
            "paceline:router_time_to_first_token_seconds",
            "From a request's arrival to its first token, as the client sees it",
            ["model"],
            buckets=FIRST_S,
            registry=registry,
        )
        self._latency = Histogram(
            "paceline:router_e2e_request_latency_seconds",
            "From a request's arrival to the end of its answer, as the client sees it",
            ["model"],
            buckets=REQUEST_S,
            registry=registry,
        )
        self._prompt_tokens = Counter(
            "paceline:router_prompt_tokens", "Tokens of prompts", ["model"], registry=registry
        )
        self._tokens = Counter(
            "paceline:router_generation_tokens", "Tokens relayed to clients", ["model"], registry=registry
        )
        self.waiting = Gauge(
            "paceline:router_requests_waiting",
            "Requests that wait for a verifier to have room or to appear",
            registry=registry,
        )
        self._failed_attempts = Counter(
            "paceline:router_failed_attempts",
            "Verifiers' calls that failed: lost (the request goes on at another), busy, drafter gone, drafter "
            "elsewhere, refused",
            ["verdict"],
            registry=registry,
        )
        self._choices = Counter(
            "paceline:router_arm_choices", "Segments for which an arm was chosen", ["model", "arm"], registry=registry
        )
        self._rewards = Summary(
            "paceline:router_arm_reward",
            "Rewards of segments: 1 plus the share of plain decoding's time that was saved",
            ["model", "arm"],
            registry=registry,
        )
        self._responses = Counter("paceline:http_responses", "HTTP responses", ["route", "status"], registry=registry)

        for verdict in Verdict:
            self._failed_attempts.labels(verdict.value)  # a rate needs a 0 to begin with

    def refused(self, reason: str) -> None:
        """A request got no place."""
        self._requests.labels("", REFUSED).inc()
        self._errors.labels(reason).inc()

    def first_token(self, model: str, seconds: float) -> None:
        self._first_token.labels(self._models.of(model)).observe(seconds)

    def ended(self, model: str, outcome: str, seconds: float, prompt_tokens: int, tokens: int) -> None:
        """A request is over. model: empty if no verifier took it up."""
        name = self._models.of(model)
        self._requests.labels(name, outcome).inc()
        self._prompt_tokens.labels(name).inc(prompt_tokens)
        self._tokens.labels(name).inc(tokens)
        if outcome not in (ABORT, ERROR):
            self._latency.labels(name).observe(seconds)

    def failed(self, reason: str) -> None:
        """A request ended with an error."""
        self._errors.labels(reason).inc()

    def attempt_failed(self, verdict: Verdict) -> None:
        """A verifier's call failed."""
        self._failed_attempts.labels(verdict.value).inc()

    def chosen(self, model: str, arm: Arm) -> None:
        """A segment is to run under an arm."""
        self._choices.labels(*self._arms.all_of(model, str(arm))).inc()

    def rewarded(self, model: str, arm: Arm, reward: float) -> None:
        """A segment under an arm earned this."""
        self._rewards.labels(*self._arms.all_of(model, str(arm))).observe(reward)

    def responded(self, route: str, status: int) -> None:
        """An HTTP response began."""
        self._responses.labels(route, str(status)).inc()
