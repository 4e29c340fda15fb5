"""What a store and a refitting process show Prometheus."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from recorded_spans import RecordedSpans
from trainer_client import lesson, manifest_for, refusal_of, serving

from paceline.trainer.metrics import Metrics
from paceline.trainer.online.counters import Counters
from paceline.trainer.online.gate import Verdict
from paceline.trainer.online.metrics import show
from paceline.trainer.publishing import send_folder
from paceline.v1 import trainer_pb2


def test_a_store_that_is_still_being_read_shows_nothing_in_it() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    opened: list[Any] = [None]
    metrics.show(lambda: opened[0], lambda: 2)

    def value(name: str) -> float | None:
        return registry.get_sample_value(f"paceline:trainer_{name}")

    assert value("replay_lessons") == 0
    assert value("watchers") == 2
    view = SimpleNamespace(num_records=5, num_tokens=70, num_bytes=900, num_evicted=3, num_damaged=1)
    replay = SimpleNamespace(view=view, max_bytes=1000, num_syncs=4)
    opened[0] = SimpleNamespace(replay=replay, revisions=["r"])
    names = ("replay_lessons", "replay_tokens", "replay_bytes", "replay_max_bytes", "replay_evicted_total", "revisions")
    assert [value(name) for name in names] == [5, 70, 900, 1000, 3, 1]
    assert value("replay_syncs_total") == 4
    assert value("replay_damaged") == 1


def test_a_learner_shows_whether_it_gets_on(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = CollectorRegistry()
    window = SimpleNamespace(num_tokens=100, new_tokens=40, recent=0.25, refused=Counter(UNKNOWN_MODEL=3))
    learner: Any = SimpleNamespace(
        window=window,
        counters=Counters(refits=4, published=1, refused=2, diverged=1, refit_s=7.5),
        refitting=True,
        yielding=SimpleNamespace(paused=False, num_steps=11),
        turned_s=90.0,
        num_failures=2,
        verdict=None,
    )
    monkeypatch.setattr("time.time", lambda: 1000.0)
    show(registry, learner, clock=lambda: 100.0)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"paceline:{name}", labels)

    assert [value("refits_ended_total", outcome=name) for name in ("published", "refused", "diverged")] == [1, 2, 1]
    assert (value("refits_total"), value("refit_seconds"), value("refit_steps_total")) == (4, 7.5, 11)
    assert (value("refit_running"), value("refit_paused")) == (1, 0)
    assert value("refit_last_turn_timestamp_seconds") == 990.0
    assert value("refit_turn_failures_total") == 2
    assert (value("refit_window_tokens"), value("refit_new_tokens"), value("refit_traffic_acceptance")) == (
        100,
        40,
        0.25,
    )
    assert value("refit_lessons_refused_total", reason="UNKNOWN_MODEL") == 3
    assert value("refit_acceptance", weights="before") is None
    learner.verdict = Verdict(True, 0.5, 0.6, 0.01, "why")
    assert [value("refit_acceptance", weights=name) for name in ("before", "after")] == [0.5, 0.6]


async def test_what_comes_is_counted_and_what_is_published_is_a_span_below_its_publishers(tmp_path: Path) -> None:
    spans = RecordedSpans()
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "weights").write_bytes(b"w" * 100)
    async with serving(tmp_path / "store", spans=spans) as (stub, service):
        await stub.Submit(trainer_pb2.SubmitRequest(lessons=[lesson(1), lesson(2)]))
        await stub.Submit(trainer_pb2.SubmitRequest(lessons=[lesson(2), lesson(3)]))
        await refusal_of(stub.Submit(trainer_pb2.SubmitRequest(lessons=[lesson(4, top_k=1000)])))
        manifest = manifest_for({"weights": b"w" * 100})
        asking = spans.begin("refit")
        revision = await send_folder(stub, folder, manifest, span=asking)
        await send_folder(stub, folder, manifest)
        await refusal_of(send_folder(stub, folder, manifest_for({"weights": b"x" * 100})))
        await stub.WithdrawRevision(
            trainer_pb2.WithdrawRevisionRequest(revision_id=revision.revision_id, reason="words")
        )

        def value(name: str, **labels: str) -> float | None:
            return service.metrics.registry.get_sample_value(f"paceline:trainer_{name}", labels)

        assert value("lessons_total", outcome="stored") == 3
        assert value("lessons_total", outcome="duplicate") == 1
        assert value("refusals_total", method="Submit", reason="OUT_OF_RANGE") == 1
        assert value("refusals_total", method="PublishRevision", reason="HASH_MISMATCH") == 1
        assert value("revisions_published_total") == 1
        assert value("revisions_withdrawn_total") == 1
        assert value("submit_seconds_count") == 3
    first, again, refused = spans.named("publish revision")
    assert (first.parent, again.parent) == (asking.traceparent, "")
    assert first.attributes == {"paceline.revision": revision.revision_id, "paceline.line": "tiny"}
    assert [first.error, again.error, refused.error] == ["", "", "HASH_MISMATCH"]
