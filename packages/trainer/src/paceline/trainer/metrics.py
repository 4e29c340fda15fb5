"""What a trainer's store shows Prometheus: lessons that came, what the buffer holds, revisions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram

from paceline.wire.registry import Figures

if TYPE_CHECKING:
    from paceline.trainer.service import Stores

SUBMIT_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The metrics of a store.

    Args:
        registry: to show them in.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry = registry or CollectorRegistry()
        self.lessons = Counter(
            "paceline:trainer_lessons", "Lessons that came: stored, or there already", ["outcome"], registry=registry
        )
        self.refused = Counter(
            "paceline:trainer_refusals",
            "Calls that were refused, by method and reason",
            ["method", "reason"],
            registry=registry,
        )
        for outcome in ("stored", "duplicate"):
            self.lessons.labels(outcome)  # a rate needs a 0 to begin with
        self.submit = Histogram(
            "paceline:trainer_submit_seconds",
            "From lessons' arrival until they are on disk",
            buckets=SUBMIT_S,
            registry=registry,
        )
        self.published = Counter("paceline:trainer_revisions_published", "Revisions published", registry=registry)
        self.withdrawn = Counter("paceline:trainer_revisions_withdrawn", "Revisions withdrawn", registry=registry)

    def show(self, stores: Callable[[], Stores | None], num_watchers: Callable[[], int]) -> None:
        """Where the rest is looked up, each time somebody looks. stores: None while they are being read."""
        figures = Figures(self.registry)

        def of(read: Callable[[Stores], float]) -> Callable[[], float]:
            def figure() -> float:
                opened = stores()
                return read(opened) if opened is not None else 0.0

            return figure

        figures.gauge(
            "paceline:trainer_replay_lessons", "Lessons in the buffer", of(lambda one: one.replay.view.num_records)
        )
        figures.gauge(
            "paceline:trainer_replay_tokens",
            "Tokens of the lessons in the buffer",
            of(lambda one: one.replay.view.num_tokens),
        )
        figures.gauge(
            "paceline:trainer_replay_bytes", "What the buffer takes on disk", of(lambda one: one.replay.view.num_bytes)
        )
        figures.gauge(
            "paceline:trainer_replay_max_bytes",
            "What the buffer may take on disk",
            of(lambda one: one.replay.max_bytes),
        )
        figures.counter(
            "paceline:trainer_replay_evicted",
            "Lessons that had to leave the buffer, over all starts",
            of(lambda one: one.replay.view.num_evicted),
        )
        figures.gauge(
            "paceline:trainer_replay_damaged",
            "Records on disk that could not be read at the start",
            of(lambda one: one.replay.view.num_damaged),
        )
        figures.counter(
            "paceline:trainer_replay_syncs", "Times that lessons were put on disk", of(lambda one: one.replay.num_syncs)
        )
        figures.gauge("paceline:trainer_revisions", "Revisions in the store", of(lambda one: len(one.revisions)))
        figures.gauge("paceline:trainer_watchers", "Who waits for new revisions", num_watchers)
