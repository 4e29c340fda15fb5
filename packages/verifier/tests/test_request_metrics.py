"""What is known of a request when it ends: for Prometheus, under vLLM's names too, and for its span."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from recorded_spans import RecordedSpans

from paceline.verifier.metrics import Metrics
from paceline.verifier.request_metrics import ABORT, ERROR
from paceline.verifier.request_spans import request_span, tell
from paceline.verifier.session import Finish, Outcome
from paceline.verifier.trie import Source
from paceline.verifier.vllm_metrics import VllmMetrics
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.tracing import NO_SPAN, NO_SPANS

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def session(**fields: Any) -> Any:
    """As much of a session as is looked at: it came at 10 s and was let in at 11 s."""
    request = SimpleNamespace(
        request_id="r",
        prompt=(1, 2, 3),
        committed=(),
        max_tokens=50,
        sampling=SimpleNamespace(temperature=0.5),
    )
    said = {
        "session_id": 255,
        "request": request,
        "arrived_s": 10.0,
        "admitted_s": 11.0,
        "first_token_s": 0.0,
        "last_token_s": 0.0,
        "accounted": False,
        "finish": None,
        "total": Outcome(),
    }
    return SimpleNamespace(**{**said, **fields})


def shown(registry: CollectorRegistry) -> dict[str, float]:
    lines = generate_latest(registry).decode().splitlines()
    values = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in values}


def test_a_requests_times_are_told_apart() -> None:
    metrics, one = Metrics(), session()
    for now_s in (12.0, 12.5, 13.0):
        metrics.requests.output(one, now_s)
    one.total.tokens, one.finish = 5, Finish.LENGTH
    metrics.requests.ended(one, 13.25)
    values = shown(metrics.registry)
    seconds = {
        "time_to_first_token_seconds": 2.0,
        "inter_token_latency_seconds": 1.0,
        "request_time_per_output_token_seconds": 0.25,
        "request_prefill_time_seconds": 1.0,
        "request_decode_time_seconds": 1.0,
        "request_inference_time_seconds": 2.0,
        "e2e_request_latency_seconds": 3.25,
        "request_prompt_tokens": 3,
        "request_generation_tokens": 5,
        "request_params_max_tokens": 50,
    }
    for name, total in seconds.items():
        assert values[f"paceline:{name}_sum"] == total, name
        assert values[f"paceline:{name}_count"] == (2 if name == "inter_token_latency_seconds" else 1), name
    assert values['paceline:request_success_total{finished_reason="length"}'] == 1
    assert values['paceline:request_success_total{finished_reason="stop"}'] == 0


def test_how_a_request_ended_is_counted_once_whatever_is_said_later() -> None:
    metrics, left, refused = Metrics(), session(), session()
    metrics.requests.ended(left, 12.0, ABORT)
    metrics.requests.ended(left, 13.0, ERROR)
    metrics.requests.turned_away(refused)
    metrics.requests.ended(refused, 12.0, ABORT)
    values = shown(metrics.registry)
    assert values['paceline:request_success_total{finished_reason="abort"}'] == 1
    assert values['paceline:request_success_total{finished_reason="error"}'] == 0
    assert values["paceline:requests_overloaded_total"] == 1
    assert values["paceline:e2e_request_latency_seconds_count"] == 1
    assert values["paceline:request_decode_time_seconds_count"] == 0  # it never had a token


def test_vllms_names_have_vllms_labels_and_the_same_figures() -> None:
    metrics, one = Metrics(), session(finish=Finish.STOP)
    metrics.registry.register(VllmMetrics(metrics, "a model"))
    metrics.requests.output(one, 12.0)
    metrics.requests.ended(one, 13.0)
    metrics.generation_tokens.inc(7)
    metrics.drafts.depths.num_candidates += 3
    metrics.drafts.depths.count(0, True, [("d", "s"), ("e", "s")])
    metrics.drafts.depths.count(0, False, [("d", "s")])
    metrics.drafts.depths.count(1, True, [("d", "s")])
    values = shown(metrics.registry)
    labels = 'engine="0",model_name="a model"'
    assert values[f"vllm:generation_tokens_total{{{labels}}}"] == 7
    assert values['vllm:request_success_total{engine="0",finished_reason="stop",model_name="a model"}'] == 1
    assert values[f"vllm:time_to_first_token_seconds_sum{{{labels}}}"] == 2.0
    assert values['vllm:time_to_first_token_seconds_bucket{engine="0",le="2.5",model_name="a model"}'] == 1
    assert values[f"vllm:spec_decode_num_draft_tokens_total{{{labels}}}"] == 3  # each once, though two proposed it
    assert values[f"vllm:spec_decode_num_accepted_tokens_total{{{labels}}}"] == 2
    per_position = 'vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="a model",position="%d"}'
    assert [values[per_position % position] for position in (0, 1)] == [1, 1]
    assert not any(name.startswith("vllm:") for name in shown(Metrics().registry))


def test_what_drafters_did_wrong_is_told_by_name_and_reason() -> None:
    metrics = Metrics()

    def link(name: str, quarantined: bool) -> Any:
        return SimpleNamespace(info=SimpleNamespace(name=name), quarantined=quarantined)

    hub: Any = SimpleNamespace(links={"1": link("a", True), "2": link("a", False), "3": link("b", False)})
    metrics.drafts.show(hub)
    stream = metrics.drafts.stream("a")
    stream.refused(Reason.WRONG_DIGEST, 0.0)
    stream.refused(Reason.WRONG_DIGEST, 2.0)
    values = shown(metrics.registry)
    assert values['paceline:drafter_refusals_total{drafter="a",reason="WRONG_DIGEST"}'] == 2
    assert values['paceline:drafter_quarantines_total{drafter="a"}'] == 1
    assert values['paceline:drafters_connected{drafter="a"}'] == 2
    assert values['paceline:drafters_quarantined{drafter="a"}'] == 1
    assert values['paceline:drafters_quarantined{drafter="b"}'] == 0


# Spans


def test_the_parts_of_a_requests_time_lie_end_to_end_below_its_span() -> None:
    spans = RecordedSpans()
    one = session(first_token_s=12.0, last_token_s=14.0, finish=Finish.STOP)
    one.total.tokens, one.total.steps = 9, 4
    one.total.credit(Source("id", "suffix"))
    with request_span(spans, lambda: (("traceparent", PARENT),)) as span:
        tell(span, one, "m", {"id": "home"})
    generate = spans.one("generate")
    assert (generate.parent, generate.error) == (PARENT, "")
    assert generate.attributes["paceline.drafters"] == ["home/suffix"]
    assert generate.attributes["gen_ai.usage.output_tokens"] == 9
    assert generate.attributes["gen_ai.response.finish_reasons"] == ["stop"]
    parts = [(part.name, part.began_s, part.ended_s, part.parent) for part in spans.all[1:]]
    own = generate.traceparent
    assert parts == [("queue", 10.0, 11.0, own), ("prefill", 11.0, 12.0, own), ("decode", 12.0, 14.0, own)]


@pytest.mark.parametrize(("field", "names"), [("admitted_s", []), ("first_token_s", ["queue"])])
def test_a_request_that_ended_early_has_the_parts_that_it_had(field: str, names: list[str]) -> None:
    spans = RecordedSpans()
    with request_span(spans, lambda: ()) as span:
        tell(span, session(**{field: 0.0}), "m", {})
    assert [part.name for part in spans.all[1:]] == names


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PacelineError(Reason.OVERLOADED, "a message with what was asked in it"), "OVERLOADED"),
        (RuntimeError("a message with what was asked in it"), "INTERNAL"),
        (asyncio.CancelledError(), ""),
    ],
)
def test_a_span_has_the_reason_of_a_failure_and_never_its_words(error: BaseException, told: str) -> None:
    spans = RecordedSpans()
    with pytest.raises(type(error)), request_span(spans, lambda: ()):
        raise error
    generate = spans.one("generate")
    assert generate.error == told
    assert "asked" not in str(generate.attributes)
    assert generate.attributes.get("paceline.cancelled", False) == isinstance(error, asyncio.CancelledError)


def test_without_traces_not_even_the_metadata_is_read() -> None:
    def metadata() -> Any:
        raise AssertionError("it was read")

    with request_span(NO_SPANS, metadata) as span:
        assert span is NO_SPAN
