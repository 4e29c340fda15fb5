"""What the drafter shows Prometheus: drafts, what they took, models at work, revisions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from paceline.drafter.drafting import DraftModel
from paceline.drafter.identity import Identity
from paceline.drafter.lane import ModelLane
from paceline.wire.registry import Figures, Reading, Row

DRAFT_S = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
EACH = ["strategy"]


class Metrics:
    """The drafter's metrics. A call takes a microsecond or two.

    Args:
        registry: to show them in.
        strategies: in the order of Hello's.

    Attributes:
        drafts, nodes, seconds: of each strategy.
    """

    def __init__(self, registry: CollectorRegistry, strategies: Sequence[str]) -> None:
        self.registry = registry
        drafts = Counter("paceline:drafter_drafts", "Trees that a strategy made", EACH, registry=registry)
        nodes = Counter(
            "paceline:drafter_draft_tokens", "Candidates in the trees that a strategy made", EACH, registry=registry
        )
        seconds = Histogram(
            "paceline:drafter_draft_seconds",
            "A tree's making; of a model, its share of the passes that went into it",
            EACH,
            buckets=DRAFT_S,
            registry=registry,
        )
        self.drafts = [drafts.labels(strategy) for strategy in strategies]
        self.nodes = [nodes.labels(strategy) for strategy in strategies]
        self.seconds = [seconds.labels(strategy) for strategy in strategies]
        self.trees = Counter("paceline:drafter_trees", "Trees to be sent, of all strategies merged", registry=registry)
        self.tree_nodes = Counter(
            "paceline:drafter_tree_tokens", "Candidates in the trees to be sent", registry=registry
        )
        self.committed = Counter(
            "paceline:drafter_committed_tokens", "Tokens that verifiers said they committed", registry=registry
        )
        self.sessions = Gauge("paceline:drafter_sessions", "Sessions that are drafted for", registry=registry)
        self.opened = Counter(
            "paceline:drafter_sessions_opened",
            "Sessions that were announced, by whether they were shadows",
            ["shadow"],
            registry=registry,
        )
        for shadow in ("true", "false"):
            self.opened.labels(shadow)  # a rate needs a 0 to begin with
        self.streams = Gauge("paceline:drafter_streams", "Verifiers to which a stream is up", registry=registry)
        self.events = Counter(
            "paceline:drafter_events",
            "What went otherwise than planned: drafts that came late, messages that could not be used, refusals",
            ["event"],
            registry=registry,
        )

    def show(self, identity: Identity, models: Sequence[DraftModel], num_refused: Callable[[], int]) -> None:
        """What there is to see of who drafts, and with what; looked up each time somebody looks.

        Args:
            identity: of this drafter.
            models: at work; others may take over in their lanes.
            num_refused: revisions that were not taken.
        """
        registry = self.registry
        Info("paceline:drafter", "Who drafts", registry=registry).info(
            {"drafter": identity.name, "drafter_id": identity.drafter_id, "strategies": ",".join(identity.strategies)}
        )

        def each(read: Callable[[ModelLane], float]) -> Callable[[], Iterator[Row]]:
            return lambda: (((model.lane.strategy,), read(model.lane)) for model in models)

        def count(name: str, text: str, read: Callable[[ModelLane], float]) -> None:
            Reading(registry, "counter", f"paceline:drafter_model_{name}", text, each(read), EACH)

        count("passes", "Forward passes of a strategy's model", lambda lane: lane.done.passes)
        count("rows", "Rows of a strategy's model's passes", lambda lane: lane.done.rows)
        count("seconds", "Time that a strategy's model's passes took", lambda lane: lane.done.seconds)
        count("failures", "Forward passes of a strategy's model that failed", lambda lane: lane.num_failures)
        count("swaps", "Times that another revision took over as a strategy's model", lambda lane: lane.num_swaps)

        def revisions() -> Iterator[Row]:
            return (((model.lane.strategy, model.revision), 1) for model in models if model.revision)

        labels = ["strategy", "revision"]
        text = "The revision that a strategy's model is of"
        Reading(registry, "gauge", "paceline:drafter_revision_info", text, revisions, labels)
        Figures(registry).counter(
            "paceline:drafter_revisions_refused", "Revisions of the line that were not taken", num_refused
        )
