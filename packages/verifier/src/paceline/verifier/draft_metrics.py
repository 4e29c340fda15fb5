"""What the verifier shows Prometheus of each drafter: how its candidates fared by depth, its time, its traffic."""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from paceline.verifier.hub import DrafterHub
from paceline.wire.errors import Reason
from paceline.wire.registry import OTHERS, Names, Reading, Row

DRAFT_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
MAX_POSITIONS = 32  # that are told apart; what is deeper counts with the last
MAX_DRAFTERS = 64  # that are told apart: drafters choose their names, and each name is several time series
MAX_PROPOSERS = 64  # pairs of a drafter's name and a strategy
__all__ = ["MAX_DRAFTERS", "MAX_POSITIONS", "MAX_PROPOSERS", "OTHERS", "DepthCounts", "DraftMetrics", "StreamMetrics"]

ALL, EACH = "paceline:spec_decode", "paceline:drafter"
TESTED, RIGHT = "Candidates verified whose parent was right", "Candidates that the target picked"

Proposer = tuple[str, str]  # a drafter's name and a strategy


class _Depths:
    """Counts by position."""

    def __init__(self) -> None:
        self.tested = [0] * MAX_POSITIONS
        self.right = [0] * MAX_POSITIONS

    def count(self, position: int, right: bool) -> None:
        self.tested[position] += 1
        self.right[position] += right


class DepthCounts(Collector):
    """Candidates that were put to the test, and those that were right, by depth.

    A candidate is put to the test if its parent was right: below a wrong one nothing can be right. So right divided by
    tested is the probability that a text that has got so far gets one further by this candidate. Position 0 is a
    child of the last committed token, as vLLM counts.

    Plain counts that are turned into metrics when somebody looks: `count` is called for each candidate of each step,
    and takes a microsecond.
    """

    def __init__(self) -> None:
        self.num_candidates = 0  # that were verified, each once; whoever verifies adds them
        self._all = _Depths()
        self._by_proposer: dict[Proposer, _Depths] = {}

    def count(self, position: int, right: bool, proposers: Iterable[Proposer]) -> None:
        """A candidate was put to the test; `proposers` are all who proposed it, and each gets the credit."""
        position = min(position, MAX_POSITIONS - 1)
        self._all.count(position, right)
        for proposer in proposers:
            (self._by_proposer.get(proposer) or self._of(proposer)).count(position, right)

    def _of(self, proposer: Proposer) -> _Depths:
        """Of one that is new, or one too many."""
        known = proposer if len(self._by_proposer) < MAX_PROPOSERS else (OTHERS, OTHERS)
        return self._by_proposer.setdefault(known, _Depths())

    def collect(self) -> Iterator[CounterMetricFamily]:
        """For the registry, in a thread of its own."""
        labels = ["position"]
        tested = CounterMetricFamily(f"{ALL}_num_draft_tokens_per_pos", f"{TESTED}, by depth", labels=labels)
        right = self.accepted_by_position()
        _add(tested, [], self._all.tested, self._all.tested)
        yield from (tested, right)
        labels = ["drafter", "strategy", "position"]
        tested = CounterMetricFamily(f"{EACH}_draft_tokens_per_pos", f"{TESTED}, for each proposer", labels=labels)
        right = CounterMetricFamily(f"{EACH}_accepted_tokens_per_pos", f"{RIGHT}, for each proposer", labels=labels)
        for proposer, depths in sorted(self._by_proposer.copy().items()):
            _add(tested, proposer, depths.tested, depths.tested)
            _add(right, proposer, depths.tested, depths.right)
        yield from (tested, right)
        yield from self.totals()

    def totals(self) -> Iterator[CounterMetricFamily]:
        """Candidates and those that became output, each once, whoever proposed it."""
        yield CounterMetricFamily(
            f"{ALL}_num_candidates", "Candidates verified, each once, whoever proposed it", self.num_candidates
        )
        yield CounterMetricFamily(
            f"{ALL}_num_accepted_candidates",
            "Candidates that the target picked, each once, whoever proposed it",
            sum(self._all.right),
        )

    def accepted_by_position(self) -> CounterMetricFamily:
        """Those that became output, by depth."""
        right = CounterMetricFamily(f"{ALL}_num_accepted_tokens_per_pos", f"{RIGHT}, by depth", labels=["position"])
        _add(right, [], self._all.tested, self._all.right)
        return right


def _add(family: CounterMetricFamily, labels: Iterable[str], tested: list[int], counts: list[int]) -> None:
    """Of depths at which something was tested at least once."""
    for position, (of, count) in enumerate(zip(tested, counts, strict=True)):
        if of:
            family.add_metric([*labels, str(position)], count)


class DraftMetrics:
    """The metrics of drafters.

    Args:
        registry: to show them in.

    Attributes:
        drafts: steps of sessions in which candidates were verified.
        depths: how candidates fared.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.drafts = Counter(
            "paceline:spec_decode_num_drafts", "Steps of sessions in which candidates were verified", registry=registry
        )
        self.depths = DepthCounts()
        registry.register(self.depths)
        self._drafters = Names(MAX_DRAFTERS)
        self._registry = registry
        self._seconds = Histogram(
            "paceline:draft_seconds",
            "A tree's making, as its drafter says",
            ["drafter"],
            buckets=DRAFT_S,
            registry=registry,
        )
        self._bytes = Counter(
            "paceline:draft_stream_bytes",
            "Messages of Draft streams after the greeting, as protobuf, from drafters and to them",
            ["drafter", "direction"],
            registry=registry,
        )
        self._refusals = Counter(
            "paceline:drafter_refusals",
            "Messages of drafters that could not be used, by why",
            ["drafter", "reason"],
            registry=registry,
        )
        self._quarantines = Counter(
            "paceline:drafter_quarantines",
            "Times that a drafter was put into quarantine for such messages",
            ["drafter"],
            registry=registry,
        )

    def show(self, hub: DrafterHub) -> None:
        """Where those that are connected are looked up, each time somebody looks."""

        def connected() -> Iterator[Row]:
            names = Count(self._drafters.of(link.info.name) for link in hub.links.copy().values())
            return (((name,), count) for name, count in names.items())

        def quarantined() -> Iterator[Row]:
            links = hub.links.copy().values()
            names = Count({self._drafters.of(link.info.name): 0 for link in links})
            names.update(self._drafters.of(link.info.name) for link in links if link.quarantined)
            return (((name,), count) for name, count in names.items())

        labels = ("drafter",)
        Reading(
            self._registry, "gauge", "paceline:drafters_connected", "Drafters that are connected", connected, labels
        )
        Reading(
            self._registry,
            "gauge",
            "paceline:drafters_quarantined",
            "Connected drafters that are in quarantine",
            quarantined,
            labels,
        )

    def stream(self, drafter: str) -> StreamMetrics:
        """Those of a stream that a drafter with this name has opened."""
        name = self._drafters.of(drafter)
        return StreamMetrics(
            self._seconds.labels(name),
            self._bytes.labels(name, "received"),
            self._bytes.labels(name, "sent"),
            self._quarantines.labels(name),
            lambda reason: self._refusals.labels(name, reason.value).inc(),
        )


class StreamMetrics:
    """What is counted of one Draft stream. A call takes a microsecond."""

    def __init__(
        self,
        seconds: Histogram,
        received: Counter,
        sent: Counter,
        quarantines: Counter,
        count_refusal: Callable[[Reason], None],
    ) -> None:
        self._seconds = seconds
        self._received = received
        self._sent = sent
        self._quarantines = quarantines
        self._count_refusal = count_refusal

    def refused(self, reason: Reason, quarantine_s: float) -> None:
        """A message could not be used, and costs the drafter so long in quarantine, or nothing."""
        self._count_refusal(reason)
        if quarantine_s:
            self._quarantines.inc()

    def received(self, num_bytes: int) -> None:
        self._received.inc(num_bytes)

    def sent(self, num_bytes: int) -> None:
        self._sent.inc(num_bytes)

    def drafted(self, draft_us: int) -> None:
        """A tree came, and took so long to make."""
        self._seconds.observe(draft_us / 1e6)
