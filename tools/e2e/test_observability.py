"""What running processes show: exactly the metrics that are documented, and a trace from the client to the drafters."""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from catalogue import Documented, read_catalogue
from observed_deployment import DRAFTERS, MODEL, SERVICES, TENANT, Observed, eventually, observed_deployment
from prometheus_client import Metric
from span_collector import Seen

from paceline.v1 import generation_pb2, router_pb2_grpc, trainer_pb2, trainer_pb2_grpc, types_pb2

CATALOGUE = read_catalogue(Path(os.environ["RUNFILES_DIR"]) / "paceline" / "docs" / "metrics.md")
SECTIONS = {
    "router": ("Every process", "Router"),
    "verifier": ("Every process", "Verifier", "Under vLLM's names"),
    "drafter": ("Every process", "Drafter"),
    "trainer": ("Every process", "Trainer"),
    "refit": ("Every process", "Refit"),
}
# What has no figures in this deployment, so its labels can't be seen here; tests of its package look at them.
WITHOUT_FIGURES = {
    "paceline:drafter_refusals_total",
    "paceline:drafter_events_total",
    "paceline:drafter_model_passes_total",
    "paceline:drafter_model_rows_total",
    "paceline:drafter_model_seconds_total",
    "paceline:drafter_model_failures_total",
    "paceline:drafter_model_swaps_total",
    "paceline:drafter_revision_info",
    "paceline:refit_lessons_refused_total",
    "paceline:refit_acceptance",
}
PROMPT = "the quick brown fox jumps over the lazy dog; once upon a time there was a small village"
WORDS = ("quick", "brown", "village")
TRACE, CLIENT_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HTTP_TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
FLAGS = "01"


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    """A deployment that has answered over both doors, refused a request and lessons, and learnt from segments."""
    with observed_deployment(tmp_path_factory.mktemp("observed")) as deployment:
        with grpc.insecure_channel(deployment.router.address) as channel:
            router = router_pb2_grpc.RouterStub(channel)
            parent = (("traceparent", f"00-{TRACE}-{CLIENT_SPAN}-{FLAGS}"),)
            events = list(router.Generate(_request(max_tokens=40), metadata=parent))
            assert events[-1].WhichOneof("event") == "finished"
            with pytest.raises(grpc.RpcError):
                list(router.Generate(_request(model="nobody's")))
            with pytest.raises(grpc.RpcError):
                list(router.Generate(_request(temperature=-1.0)))
        _ask_over_http(deployment)
        with grpc.insecure_channel(deployment.stack.services["trainer"].address) as channel:
            trainer = trainer_pb2_grpc.TrainerStub(channel)
            with pytest.raises(grpc.RpcError):
                trainer.Submit(trainer_pb2.SubmitRequest(lessons=[trainer_pb2.Lesson(lesson_id=b"short")]))
        yield deployment


def _request(max_tokens: int = 8, temperature: float = 0.8, **fields: str) -> generation_pb2.GenerateRequest:
    return generation_pb2.GenerateRequest(
        text=PROMPT,
        sampling=types_pb2.Sampling(temperature=temperature, seed=3),
        limits=types_pb2.Limits(max_tokens=max_tokens, ignore_eos=True),
        tenant=TENANT,
        **fields,
    )


def _ask_over_http(deployment: Observed) -> None:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": 24,
        "paceline": {"drafters": list(DRAFTERS)},
    }
    request = urllib.request.Request(
        f"http://{deployment.router.http}/v1/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json", "traceparent": f"00-{HTTP_TRACE}-{CLIENT_SPAN}-{FLAGS}"},
    )
    with urllib.request.urlopen(request, timeout=30.0) as response:
        assert json.load(response)["choices"][0]["finish_reason"] in ("length", "stop")


def _exposed_name(family: Metric) -> str:
    return f"{family.name}_total" if family.type == "counter" else family.name


def _documented(service: str) -> dict[str, Documented]:
    return {name: metric for section in SECTIONS[service] for name, metric in CATALOGUE[section].items()}


@pytest.mark.parametrize("service", SERVICES)
def test_what_is_shown_is_what_is_documented(observed: Observed, service: str) -> None:
    shown = {_exposed_name(family): family for family in observed.families(service).values()}
    documented = _documented(service)
    assert shown.keys() == documented.keys()
    for name, family in shown.items():
        assert (family.type, family.documentation) == (documented[name].kind, documented[name].text), name
        for sample in family.samples:
            labels = frozenset(sample.labels) - ({"le"} if family.type == "histogram" else frozenset())
            assert labels == documented[name].labels, name
        assert family.samples or name in WITHOUT_FIGURES, f"{name} has no figures, so nobody looks at its labels"


def test_the_document_has_no_section_that_nobody_compares() -> None:
    assert set(CATALOGUE) == {section for sections in SECTIONS.values() for section in sections}


def test_figures_agree_with_what_was_asked(observed: Observed) -> None:
    def value(service: str, name: str, **labels: str) -> float:
        samples = [sample for family in observed.families(service).values() for sample in family.samples]
        return sum(one.value for one in samples if one.name == name and labels.items() <= one.labels.items())

    router, verifier = "router", "verifier"
    tokens = value(router, "paceline:router_generation_tokens_total", model=MODEL)
    assert tokens == value(verifier, "paceline:generation_tokens_total") > 40
    assert value(router, "paceline:router_requests_total", outcome="refused") == 1
    assert value(router, "paceline:router_request_errors_total", reason="UNKNOWN_MODEL") == 1
    assert value(router, "paceline:router_time_to_first_token_seconds_count") == 2
    assert value(router, "paceline:router_e2e_request_latency_seconds_count") == 2
    assert value(router, "paceline:http_responses_total", route="/v1/chat/completions", status="200") == 1
    assert value(router, "paceline:router_arm_choices_total") >= 5
    assert value(verifier, "paceline:request_success_total", finished_reason="length") >= 1
    assert value(verifier, "paceline:time_to_first_token_seconds_count") == 2
    assert value(verifier, "paceline:drafters_connected", drafter="suffix") == 1
    # The same figures under vLLM's names.
    for name in ("generation_tokens_total", "time_to_first_token_seconds_count", "e2e_request_latency_seconds_sum"):
        theirs = value(verifier, f"vllm:{name}", model_name=MODEL, engine="0")
        assert theirs == value(verifier, f"paceline:{name}") > 0
    accepted = value(verifier, "paceline:spec_decode_num_accepted_tokens_per_pos_total")
    assert value(verifier, "vllm:spec_decode_num_accepted_tokens_total") == accepted
    assert value("drafter", "paceline:drafter_drafts_total", strategy="suffix") > 0
    assert value("trainer", "paceline:trainer_refusals_total", method="Submit") == 1


def _below(spans: list[Seen], parent: Seen) -> list[Seen]:
    return [span for span in spans if span.parent == parent.span_id]


def _one(spans: list[Seen], name: str) -> Seen:
    (found,) = (span for span in spans if span.name == name)
    return found


@pytest.mark.parametrize("trace", [TRACE, HTTP_TRACE], ids=["grpc", "http"])
def test_one_trace_goes_from_the_client_through_all(observed: Observed, trace: str) -> None:
    def spans() -> list[Seen]:
        return [span for span in observed.collector.spans if span.trace_id == trace]

    def complete() -> bool:
        names = {span.name for span in spans()}
        return names >= {"request", "choose", "attempt", "generate", "queue", "prefill", "decode", "draft"}

    eventually(complete, "not all parts of the trace came")
    found = spans()
    request = _one(found, "request")
    assert (request.service, request.parent) == ("paceline-router", CLIENT_SPAN)
    attempt = _one(_below(found, request), "attempt")
    assert _one(_below(found, request), "choose").ended_ns <= attempt.began_ns
    generate = _one(_below(found, attempt), "generate")
    assert generate.service == "paceline-verifier"
    assert generate.attributes["gen_ai.response.id"] == request.attributes["gen_ai.response.id"]
    assert generate.attributes["gen_ai.usage.output_tokens"] == request.attributes["gen_ai.usage.output_tokens"] > 0
    assert request.began_ns <= generate.began_ns <= generate.ended_ns <= request.ended_ns
    queue, prefill, decode = (_one(_below(found, generate), name) for name in ("queue", "prefill", "decode"))
    assert abs(queue.ended_ns - prefill.began_ns) < 1e6
    assert abs(prefill.ended_ns - decode.began_ns) < 1e6
    assert not any(span.failed for span in found)
    drafts = [span for span in _below(found, generate) if span.name == "draft"]
    assert drafts
    assert {span.service for span in drafts} == {"paceline-drafter"}
    assert {span.attributes["paceline.drafter"] for span in drafts} <= set(DRAFTERS)
    assert sum(span.attributes["paceline.drafts"] for span in drafts) > 0


def test_a_request_that_failed_says_why_and_not_what(observed: Observed) -> None:
    eventually(lambda: any(span.failed for span in observed.collector.spans), "no span failed")
    failed = [span for span in observed.collector.spans if span.failed]
    assert {(span.name, span.attributes["error.type"]) for span in failed} == {("request", "UNKNOWN_MODEL")}


def test_nothing_of_the_text_its_tenant_or_tokens_is_in_spans_metrics_or_logs(observed: Observed) -> None:
    sent = b"".join(observed.collector.raw)
    shown = "".join(str(list(observed.families(service).values())) for service in SERVICES)
    logs = observed.logs()
    for secret in (*WORDS, TENANT):
        assert secret.encode() not in sent, secret
        assert secret not in shown, secret
        assert secret not in logs, secret


def test_every_line_of_every_log_is_json_with_an_event(observed: Observed) -> None:
    for service in observed.stack.services.values():
        for line in filter(str.strip, service.log.read_text().splitlines()):
            assert "event" in json.loads(line), f"{service.name}: {line}"
