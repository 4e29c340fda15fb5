"""What the verifier shows Prometheus. Names are vLLM's, with `paceline:` before them, where vLLM has the same thing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from paceline.verifier.draft_metrics import DraftMetrics
from paceline.verifier.request_metrics import RequestMetrics
from paceline.wire.registry import OTHERS, Figures, Names

STEP_S = (0.001, 0.002, 0.004, 0.006, 0.008, 0.01, 0.012, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 5.0)
GAP_S = (0.0001, 0.0002, 0.0003, 0.0005, 0.00075, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 1.0)
ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512)
MAX_STRATEGIES = 64  # that are told apart: drafters choose their names, and each name is a time series
__all__ = ["MAX_STRATEGIES", "OTHERS", "Metrics"]


class Metrics:
    """The verifier's metrics. Cheap enough for every step: some microseconds.

    Args:
        registry: to show them in; None makes one.

    Attributes:
        registry: the same.
        drafts: what is told apart by drafter and depth.
        requests: what is known of a request when it gets tokens, and when it ends.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry = registry or CollectorRegistry()
        self.drafts = DraftMetrics(registry)
        self.requests = RequestMetrics(registry)
        self._strategies = Names(MAX_STRATEGIES)
        self.step = Histogram(
            "paceline:step_seconds",
            "A step in the model's thread: forward pass, sampling, compaction of the cache",
            buckets=STEP_S,
            registry=registry,
        )
        self.gap = Histogram(
            "paceline:step_gap_seconds",
            "From the end of a step to the start of the next, waiting for drafts not counted, while sessions run",
            buckets=GAP_S,
            registry=registry,
        )
        self.wait = Histogram(
            "paceline:draft_wait_seconds", "A step's wait for drafts", buckets=GAP_S, registry=registry
        )
        self.rows = Histogram(
            "paceline:step_rows", "Rows of a step, over all sessions", buckets=ROWS, registry=registry
        )
        self.prompt_tokens = Counter(
            "paceline:prompt_tokens", "Tokens of prompts, whether computed or shared", registry=registry
        )
        self.cached_tokens = Counter(
            "paceline:prompt_tokens_cached", "Tokens of prompts that the cache had already", registry=registry
        )
        self.generation_tokens = Counter("paceline:generation_tokens", "Tokens generated", registry=registry)
        self.session_steps = Counter(
            "paceline:session_steps",
            "Steps of sessions that were decoding, by which tokens per step go",
            registry=registry,
        )
        self.draft_tokens = Counter(
            "paceline:spec_decode_num_draft_tokens", "Candidates verified", ["strategy"], registry=registry
        )
        self.accepted_tokens = Counter(
            "paceline:spec_decode_num_accepted_tokens", "Candidates that became output", ["strategy"], registry=registry
        )
        self.preemptions = Counter(
            "paceline:num_preemptions", "Sessions sent back to the queue for want of cache", registry=registry
        )
        self.failures = Counter("paceline:step_failures", "Steps that failed", registry=registry)
        self.shadow_scores = Counter(
            "paceline:shadow_scores", "Drafters scored on text that they had no part in", registry=registry
        )
        self.shadow_seconds = Counter(
            "paceline:shadow_seconds", "Time that scoring such drafters took", registry=registry
        )
        self.running = Gauge("paceline:num_requests_running", "Sessions that run", registry=registry)
        self.waiting = Gauge("paceline:num_requests_waiting", "Requests that wait for a session", registry=registry)
        self.cache_usage = Gauge(
            "paceline:kv_cache_usage_perc", "Share of the cache's blocks that sessions hold, 0 to 1", registry=registry
        )
        self.cache_remembered = Gauge(
            "paceline:kv_cache_remembered_perc",
            "Share of blocks that no session holds and a later one may share, 0 to 1",
            registry=registry,
        )
        self._model = Info("paceline:model", "The target, and what runs it", registry=registry)

    def show(
        self,
        running: Callable[[], float],
        waiting: Callable[[], float],
        cache_usage: Callable[[], float],
        cache_remembered: Callable[[], float],
    ) -> None:
        """Where the gauges read from, each time somebody looks."""
        self.running.set_function(running)
        self.waiting.set_function(waiting)
        self.cache_usage.set_function(cache_usage)
        self.cache_remembered.set_function(cache_remembered)

    def loaded(self, model_name: str, engine: str, dtype: str, device: str) -> None:
        """The model is there."""
        self._model.info({"model_name": model_name, "engine": engine, "dtype": dtype, "device": device})

    def stepped(self, seconds: float, num_rows: int, gap_s: float | None, wait_s: float) -> None:
        """A step is over. gap_s: None if there was none before it to count from."""
        self.step.observe(seconds)
        self.rows.observe(num_rows)
        self.wait.observe(wait_s)
        if gap_s is not None:
            self.gap.observe(gap_s)

    def drafted(self, strategy: str, proposed: int, accepted: int) -> None:
        """What a step said about the candidates of a strategy."""
        name = self._strategies.of(strategy)
        self.draft_tokens.labels(name).inc(proposed)
        self.accepted_tokens.labels(name).inc(accepted)


class Taught(Protocol):
    """What is shown of lessons (`paceline.verifier.lessons.Lessons`)."""

    num_submitted: int
    num_dropped: int
    num_distrusted: int


def show_lessons(registry: CollectorRegistry, lessons: Taught) -> None:
    """Shows what became of lessons for the trainer."""
    figures = Figures(registry)
    figures.counter("paceline:lessons_submitted", "Lessons that a trainer took", lambda: lessons.num_submitted)
    figures.counter("paceline:lessons_dropped", "Lessons that no trainer took in time", lambda: lessons.num_dropped)
    figures.counter(
        "paceline:lessons_distrusted",
        "Lessons not made, since a drafter in quarantine had a part in them",
        lambda: lessons.num_distrusted,
    )
