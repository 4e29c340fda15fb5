"""What the verifier shows Prometheus of each drafter: how its candidates fared by depth, its time, its traffic."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable, Iterator
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

DRAFT_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
MAX_POSITIONS = 32  # that are told apart; what is deeper counts with the last
MAX_DRAFTERS = 64  # that are told apart: drafters choose their names, and each name is several time series
MAX_PROPOSERS = 64  # pairs of a drafter's name and a strategy
OTHERS = "others"

T = TypeVar("T")

Proposer = tuple[str, str]  # a drafter's name and a strategy


class DepthCounts(Collector):
    """Candidates that were put to the test, and those that were right, by depth.

    A candidate is put to the test if its parent was right: below a wrong one nothing can be right. So right divided by
    tested is the probability that a text that has got so far gets one further by this candidate. Position 0 is a
    child of the last committed token, as vLLM counts.

    Plain counts that are turned into metrics when somebody looks: `count` is called for each candidate of each step,
    and takes a microsecond.
    """

    def __init__(self) -> None:
        self._tested: Tally[int] = Tally()
        self._right: Tally[int] = Tally()
        self._proposers: set[Proposer] = set()
        self._tested_of: Tally[tuple[Proposer, int]] = Tally()
        self._right_of: Tally[tuple[Proposer, int]] = Tally()

    def count(self, position: int, right: bool, proposers: Iterable[Proposer]) -> None:
        """A candidate was put to the test; `proposers` are all who proposed it, and each gets the credit."""
        position = min(position, MAX_POSITIONS - 1)
        self._tested[position] += 1
        self._right[position] += right
        for proposer in proposers:
            known = _known(proposer, self._proposers, MAX_PROPOSERS, (OTHERS, OTHERS))
            self._tested_of[known, position] += 1
            self._right_of[known, position] += right

    def collect(self) -> Iterator[CounterMetricFamily]:
        """For the registry, in a thread of its own; so it works on copies."""
        totals = (
            ("spec_decode_num_draft_tokens_per_pos", "Candidates verified whose parent was right", self._tested),
            ("spec_decode_num_accepted_tokens_per_pos", "Candidates that the target picked", self._right),
        )
        for name, meaning, by_position in totals:
            family = CounterMetricFamily(f"paceline:{name}", f"{meaning}, by depth", labels=["position"])
            for position, count in sorted(by_position.copy().items()):
                family.add_metric([str(position)], count)
            yield family
        credits = (
            ("drafter_draft_tokens_per_pos", "Candidates verified whose parent was right", self._tested_of),
            ("drafter_accepted_tokens_per_pos", "Candidates that the target picked", self._right_of),
        )
        for name, meaning, by_proposer in credits:
            family = CounterMetricFamily(
                f"paceline:{name}",
                f"{meaning}, for each that proposed them",
                labels=["drafter", "strategy", "position"],
            )
            for ((drafter, strategy), position), count in sorted(by_proposer.copy().items()):
                family.add_metric([drafter, strategy, str(position)], count)
            yield family


class DraftMetrics:
    """The metrics of drafters.

    Args:
        registry: to show them in.

    Attributes:
        depths: how candidates fared.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
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
        name = _known(drafter, self._drafters, MAX_DRAFTERS, OTHERS)
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


def _known(name: T, known: set[T], most: int, others: T) -> T:
    """The name, if it is among the first `most` that were seen."""
    if name not in known:
        if len(known) >= most:
            return others
        known.add(name)
    return name
