"""What the drafter counts and traces of its sessions, and of models at work."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from prometheus_client import CollectorRegistry
from recorded_spans import RecordedSpans

from paceline.drafter.calibration import Calibration
from paceline.drafter.identity import Identity
from paceline.drafter.memory import Memory
from paceline.drafter.metrics import Metrics
from paceline.drafter.model_worker import Done
from paceline.drafter.observing import Observing
from paceline.drafter.opening import Opening
from paceline.drafter.session import Sessions, Terms
from paceline.drafter.strategies.base import Commit
from paceline.wire.digest import digest_of
from paceline.wire.tracing import NO_SPANS, Spans

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TERMS = Terms("v", "model", "hash", 1000, max_tree_nodes=24, max_tree_depth=6, commit_top_k=8)
NAMES = ("suffix", "recycling")
TEXT = (1, 2, 3, 1, 2, 3, 1, 2)


class Desk:
    """Sessions that are watched."""

    def __init__(self, spans: Spans = NO_SPANS) -> None:
        self.registry = CollectorRegistry()
        self.watch = Observing(Metrics(self.registry, NAMES), spans, {"paceline.drafter": "home"})
        calibrations = [Calibration() for _ in NAMES]
        self.sessions = Sessions(TERMS, Memory(NAMES, 10_000), calibrations, 32, lambda: 0.0, watch=self.watch)

    def open(self, session_id: int, shadow: bool = False, traceparent: str = "") -> None:
        digest = digest_of(TEXT)
        self.sessions.opened(Opening(session_id, TEXT, digest, len(TEXT), shadow=shadow, traceparent=traceparent))

    def commit(self, session_id: int, digest: int | None = None) -> None:
        text = (*TEXT, 3)
        self.sessions.committed(Commit(session_id, (3,), len(text), digest_of(text) if digest is None else digest))

    def value(self, name: str, **labels: str) -> float:
        found = self.registry.get_sample_value(f"paceline:drafter_{name}", labels)
        return 0.0 if found is None else found


def test_each_strategys_drafts_are_counted_and_timed() -> None:
    desk = Desk()
    desk.open(1)
    draft = desk.sessions.next_draft()
    assert draft is not None
    assert [desk.value("drafts_total", strategy=name) for name in NAMES] == [1, 1]
    assert desk.value("draft_tokens_total", strategy="suffix") >= len(draft.tree) > 0
    assert desk.value("draft_seconds_count", strategy="recycling") == 1
    assert desk.value("trees_total") == 1
    assert desk.value("tree_tokens_total") == len(draft.tree)
    desk.commit(1)
    assert desk.value("committed_tokens_total") == 1


def test_sessions_are_counted_until_they_end_however_they_do() -> None:
    desk = Desk()
    for number in range(4):
        desk.open(number, shadow=number == 3)
    desk.open(0)  # anew
    assert desk.value("sessions") == 4
    assert desk.value("sessions_opened_total", shadow="false") == 4
    assert desk.value("sessions_opened_total", shadow="true") == 1
    desk.sessions.closed(0)
    desk.commit(1, digest=7)
    assert desk.value("sessions") == 2
    assert desk.value("events_total", event="wrong_digest") == 1
    desk.sessions.detach()
    desk.sessions.detach()
    assert desk.value("sessions") == 0


def test_a_session_has_one_span_below_the_verifiers_with_counts() -> None:
    spans = RecordedSpans()
    desk = Desk(spans)
    desk.open(1, traceparent=PARENT)
    desk.open(2)  # the verifier traces nothing of it
    while desk.sessions.next_draft() is not None:
        pass
    desk.commit(1)
    desk.sessions.closed(1)
    draft = spans.one("draft")
    assert (draft.parent, draft.error, len(draft.ends)) == (PARENT, "", 1)
    assert draft.attributes["paceline.drafter"] == "home"
    assert draft.attributes["paceline.drafts"] == len(NAMES)
    assert draft.attributes["paceline.committed_tokens"] == 1
    assert draft.attributes["paceline.draft_tokens"] > 0


def test_streams_are_counted_while_they_are_up() -> None:
    desk = Desk()
    desk.watch.stream(up=True)
    desk.watch.stream(up=True)
    desk.watch.stream(up=False)
    assert desk.value("streams") == 1


def test_models_and_revisions_are_looked_up_when_somebody_looks() -> None:
    registry = CollectorRegistry()
    lane = SimpleNamespace(strategy="causal_lm", done=Done(3, 12, 0.5), num_failures=1, num_swaps=0)
    model: Any = SimpleNamespace(lane=lane, revision="abc")
    identity = Identity(drafter_id="home-1", name="home", strategies=("causal_lm",), commit_top_k=0, own=False)
    Metrics(registry, identity.strategies).show(identity, [model], lambda: 2)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"paceline:drafter_{name}", labels)

    lane.num_swaps, lane.done.passes = 1, 4
    of = {"strategy": "causal_lm"}
    assert [value(f"model_{name}_total", **of) for name in ("passes", "rows", "seconds", "failures", "swaps")] == [
        *(4, 12, 0.5, 1, 1)
    ]
    assert value("revision_info", strategy="causal_lm", revision="abc") == 1
    assert value("revisions_refused_total") == 2
    assert value("info", drafter="home", drafter_id="home-1", strategies="causal_lm") == 1
