"""What a refitting process shows Prometheus: whether it gets on, what it learns from, what the gate says."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry

from paceline.trainer.online.learner import Learner
from paceline.wire.registry import Figures, Reading


def show(registry: CollectorRegistry, learner: Learner, clock: Callable[[], float] = time.monotonic) -> None:
    """Shows a learner; everything is looked up each time somebody looks.

    Args:
        registry: to show it in.
        learner: whose clock is `clock`.
    """
    figures, window = Figures(registry), learner.window

    def unix_s(at_s: float) -> float:
        return time.time() - (clock() - at_s)

    figures.counter("paceline:refits", "Refits begun, over all starts", lambda: learner.counters.refits)
    Reading(
        registry,
        "counter",
        "paceline:refits_ended",
        "Refits that ended, over all starts: published, refused by the gate, or diverged",
        lambda: [
            (("published",), learner.counters.published),
            (("refused",), learner.counters.refused),
            (("diverged",), learner.counters.diverged),
        ],
        ("outcome",),
    )
    figures.gauge("paceline:refit_running", "1 while a refit is under way", lambda: learner.refitting)
    figures.gauge("paceline:refit_paused", "1 while the verifier has its hands full", lambda: learner.yielding.paused)
    figures.counter("paceline:refit_steps", "Steps of refits since the start", lambda: learner.yielding.num_steps)
    figures.gauge(
        "paceline:refit_seconds", "Processor time that a refit takes, lately", lambda: learner.counters.refit_s
    )
    figures.gauge(
        "paceline:refit_last_turn_timestamp_seconds",
        "When the process last looked for lessons and revisions and could; Unix time",
        lambda: unix_s(learner.turned_s),
    )
    figures.counter(
        "paceline:refit_turn_failures",
        "Times that it could not, mostly for want of the store",
        lambda: learner.num_failures,
    )
    figures.gauge("paceline:refit_window_tokens", "Tokens that are learned from", lambda: window.num_tokens)
    figures.gauge("paceline:refit_new_tokens", "Tokens of lessons since the last refit", lambda: window.new_tokens)
    figures.gauge(
        "paceline:refit_traffic_acceptance", "Share of the latest tokens that had been drafted", lambda: window.recent
    )
    Reading(
        registry,
        "counter",
        "paceline:refit_lessons_refused",
        "Lessons that can't be learned from, by reason",
        lambda: [((reason,), count) for reason, count in window.refused.copy().items()],
        ("reason",),
    )
    Reading(
        registry,
        "gauge",
        "paceline:refit_acceptance",
        "Acceptance on held-out lessons, of the last refit that was judged",
        lambda: (
            [] if (verdict := learner.verdict) is None else [(("before",), verdict.before), (("after",), verdict.after)]
        ),
        ("weights",),
    )
