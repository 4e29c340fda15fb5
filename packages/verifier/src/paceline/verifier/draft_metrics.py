"""What the verifier shows Prometheus of each drafter: how its candidates fared by depth, its time, its traffic."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

DRAFT_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
MAX_POSITIONS = 32  # that are told apart; what is deeper counts with the last
MAX_DRAFTERS = 64  # that are told apart: drafters choose their names, and each name is several time series
MAX_PROPOSERS = 64  # pairs of a drafter's name and a strategy
OTHERS = "others"

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
        right = CounterMetricFamily(f"{ALL}_num_accepted_tokens_per_pos", f"{RIGHT}, by depth", labels=labels)
        _add(tested, right, [], self._all)
        yield from (tested, right)
        labels = ["drafter", "strategy", "position"]
        tested = CounterMetricFamily(f"{EACH}_draft_tokens_per_pos", f"{TESTED}, for each proposer", labels=labels)
        right = CounterMetricFamily(f"{EACH}_accepted_tokens_per_pos", f"{RIGHT}, for each proposer", labels=labels)
        for proposer, depths in sorted(self._by_proposer.copy().items()):
            _add(tested, right, proposer, depths)
        yield from (tested, right)


def _add(tested: CounterMetricFamily, right: CounterMetricFamily, labels: Iterable[str], depths: _Depths) -> None:
    """What was tested at least once."""
    for position, (of, ones) in enumerate(zip(depths.tested, depths.right, strict=True)):
        if of:
            tested.add_metric([*labels, str(position)], of)
            right.add_metric([*labels, str(position)], ones)


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
        self._drafters: set[str] = set()
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

    def stream(self, drafter: str) -> StreamMetrics:
        """Those of a stream that a drafter with this name has opened."""
        name = drafter if drafter in self._drafters or len(self._drafters) < MAX_DRAFTERS else OTHERS
        self._drafters.add(name)
        return StreamMetrics(
            self._seconds.labels(name), self._bytes.labels(name, "received"), self._bytes.labels(name, "sent")
        )


class StreamMetrics:
    """What is counted of one Draft stream. A call takes a microsecond."""

    def __init__(self, seconds: Histogram, received: Counter, sent: Counter) -> None:
        self._seconds = seconds
        self._received = received
        self._sent = sent

    def received(self, num_bytes: int) -> None:
        self._received.inc(num_bytes)

    def sent(self, num_bytes: int) -> None:
        self._sent.inc(num_bytes)

    def drafted(self, draft_us: int) -> None:
        """A tree came, and took so long to make."""
        self._seconds.observe(draft_us / 1e6)
