"""What the router counts and traces of requests, over real sockets to fake verifiers."""

from __future__ import annotations

import asyncio
import urllib.request
from typing import Any

import grpc
import pytest
from conftest import Deploy, Deployment, eventually, request_of
from http_doors import MESSAGES, asked, client_of
from recorded_spans import RecordedSpans

from paceline.router.arms import Arm
from paceline.router.metrics import MAX_ARMS, Metrics
from paceline.router.wish import Wish
from paceline.v1 import generation_pb2, types_pb2
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.registry import OTHERS, new_registry

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


def value(deployment: Deployment, name: str, **labels: str) -> float:
    found = deployment.router.telemetry.registry.get_sample_value(name, labels)
    return 0.0 if found is None else found


def traced(deployment: Deployment) -> RecordedSpans:
    """Has the router keep its spans."""
    spans = RecordedSpans()
    object.__setattr__(deployment.router.backend, "spans", spans)
    return spans


async def answer_of(deployment: Deployment, metadata: Any = None, **fields: Any) -> list[generation_pb2.GenerateEvent]:
    return await _all_of(deployment.stub.Generate(request_of(**fields), metadata=metadata))


async def _all_of(call: Any) -> list[generation_pb2.GenerateEvent]:
    return [event async for event in call]


async def test_requests_are_counted_by_how_they_ended(deploy: Deploy) -> None:
    deployment = await deploy(max_requests=1, failover_wait_s=0.0)
    with pytest.raises(grpc.aio.AioRpcError):
        await answer_of(deployment)
    verifier = await deployment.verifier("v", token_s=0.005, stop_at=3)
    call = deployment.generate()
    await verifier.stopped.wait()
    with pytest.raises(grpc.aio.AioRpcError):
        await answer_of(deployment)  # there is no more room
    call.cancel()
    await eventually(lambda: deployment.router.admission.num_active == 0)
    verifier.resume.set()
    await answer_of(deployment, max_tokens=6)
    requests = "paceline:router_requests_total"
    assert value(deployment, requests, model="", outcome="error") == 1
    assert value(deployment, requests, model="", outcome="refused") == 1
    assert value(deployment, requests, model="m", outcome="abort") == 1
    assert value(deployment, requests, model="m", outcome="length") == 1
    assert value(deployment, "paceline:router_request_errors_total", reason="NO_VERIFIER") == 1
    assert value(deployment, "paceline:router_request_errors_total", reason="OVERLOADED") == 1
    assert value(deployment, "paceline:router_generation_tokens_total", model="m") == 3 + 6
    assert value(deployment, "paceline:router_time_to_first_token_seconds_count", model="m") == 2
    assert value(deployment, "paceline:router_e2e_request_latency_seconds_count", model="m") == 1


async def test_choices_rewards_and_failovers_are_counted(deploy: Deploy) -> None:
    deployment = await deploy(policy="fixed")
    lost = {"verdict": "lost"}
    await deployment.verifier("a", drafters={"d": "suffix"}, fail_at=2)
    answering = asyncio.create_task(_all_of(deployment.generate(max_tokens=12)))
    await eventually(lambda: value(deployment, "paceline:router_failed_attempts_total", **lost) == 1)
    await eventually(lambda: value(deployment, "paceline:router_requests_waiting") == 1)
    await deployment.verifier("b", drafters={"d": "suffix"})
    await answering
    assert value(deployment, "paceline:router_requests_waiting") == 0
    assert value(deployment, "paceline:router_failed_attempts_total", **lost) == 1
    assert value(deployment, "paceline:router_arm_choices_total", model="m", arm="suffix") >= 3
    assert value(deployment, "paceline:router_arm_reward_count", model="m", arm="suffix") >= 2
    assert value(deployment, "paceline:router_arm_reward_sum", model="m", arm="suffix") > 0.0
    assert value(deployment, "paceline:router_members", role="verifier") == 2


def test_drafters_that_invent_names_do_not_invent_time_series() -> None:
    metrics = Metrics(new_registry("router", "0"))
    for number in range(MAX_ARMS + 50):
        metrics.chosen("m", Arm((f"drafter {number}",)))
    counts = [sample for family in metrics.registry.collect() for sample in family.samples if "choices" in sample.name]
    assert len(counts) == MAX_ARMS + 1
    (others,) = (sample for sample in counts if sample.labels["arm"] == OTHERS)
    assert (others.labels["model"], others.value) == (OTHERS, 50)


async def test_metrics_have_a_port_of_their_own_with_and_without_an_http_door(deploy: Deploy) -> None:
    def read(address: str) -> str:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10.0) as response:
            return response.read().decode()

    plain = await deploy(metrics_listen="127.0.0.1:0")
    assert plain.router.server.other_addresses["metrics"] == plain.router.telemetry.address
    text = await asyncio.to_thread(read, plain.router.telemetry.address)
    assert "paceline:router_store_up 1.0" in text
    assert "paceline:build_info{" in text
    both = await deploy(metrics_listen="127.0.0.1:0", http="127.0.0.1:0")
    over_http = (await asked(both, "GET", "/metrics")).body.decode()
    assert "paceline:router_store_up 1.0" in over_http
    text = await asyncio.to_thread(read, both.router.telemetry.address)
    assert 'paceline:http_responses_total{route="/metrics",status="200"} 1.0' in text


# Traces


async def test_a_request_is_one_span_with_its_choice_and_its_attempts(deploy: Deploy) -> None:
    deployment = await deploy(policy="fixed")
    spans = traced(deployment)
    heard: list[str] = []
    verifier = await deployment.verifier("v", drafters={"d": "suffix"})
    generate = verifier.Generate

    async def listening(request: Any, context: grpc.aio.ServicerContext) -> Any:
        heard.extend(str(found) for key, found in context.invocation_metadata() if key == "traceparent")
        async for event in generate(request, context):
            yield event

    await verifier.kill()
    verifier.Generate = listening  # type: ignore[method-assign]
    await verifier.start()
    deployment.announce(verifier)
    await answer_of(deployment, metadata=(("traceparent", PARENT),), max_tokens=10)
    request, choose, attempt = (spans.one(name) for name in ("request", "choose", "attempt"))
    assert (request.parent, choose.parent, attempt.parent) == (PARENT, request.traceparent, request.traceparent)
    assert heard == [attempt.traceparent]
    assert attempt.attributes["paceline.arm"] == "suffix"
    assert [name for name, _ in attempt.events].count("segment") == 3
    assert request.attributes["gen_ai.usage.output_tokens"] == 10
    assert [name for name, _ in request.events] == ["first token"]
    assert all(span.ends for span in spans.all)
    assert not any(span.error for span in spans.all)


async def test_without_traces_calls_carry_no_more_than_before(deploy: Deploy) -> None:
    deployment = await deploy()
    heard: list[str] = []
    verifier = await deployment.verifier("v")
    generate = verifier.Generate

    async def listening(request: Any, context: grpc.aio.ServicerContext) -> Any:
        heard.extend(key for key, _ in context.invocation_metadata())
        async for event in generate(request, context):
            yield event

    await verifier.kill()
    verifier.Generate = listening  # type: ignore[method-assign]
    await verifier.start()
    deployment.announce(verifier)
    await answer_of(deployment, metadata=(("traceparent", PARENT),))
    assert "traceparent" not in heard


async def test_an_attempt_that_failed_has_its_reason_and_the_request_goes_on(deploy: Deploy) -> None:
    deployment = await deploy()
    spans = traced(deployment)
    verifier = await deployment.verifier("a", fail_at=2, failure=PacelineError(Reason.INTERNAL, "words of the request"))
    await verifier.kill()
    await verifier.start()
    deployment.announce(verifier)
    other = await deployment.verifier("b", announced=False)
    call = deployment.generate(max_tokens=6)
    await eventually(lambda: spans.named("attempt") and spans.named("attempt")[0].ends)
    deployment.announce(other)
    async for _event in call:
        pass
    first, *others = spans.named("attempt")
    assert first.error == "INTERNAL"
    assert not others[-1].error
    assert others[-1].attributes["paceline.after_tokens"] == 2
    assert not spans.one("request").error
    assert "words" not in str([(span.attributes, span.events) for span in spans.all])


async def test_what_a_client_named_is_in_no_span(deploy: Deploy) -> None:
    deployment = await deploy()
    spans = traced(deployment)
    await deployment.verifier("v", drafters={"mine": "secret-name"})
    await answer_of(deployment, speculation=types_pb2.Speculation(drafters=["secret-name"]))
    assert spans.one("attempt").attributes["paceline.arm"] == "named by the client"
    assert "secret" not in str([(span.attributes, span.events) for span in spans.all])
    assert not Wish(drafters=("secret-name",)).free


async def test_an_http_header_is_as_good_as_metadata_and_each_choice_has_a_span(deploy: Deploy) -> None:
    deployment = await deploy(http="127.0.0.1:0")
    spans = traced(deployment)
    await deployment.verifier("v")
    async with client_of(deployment) as client:
        for header in (PARENT, "no traceparent"):
            await client.chat.completions.create(
                model="m", messages=MESSAGES, n=2, max_tokens=4, extra_headers={"traceparent": header}
            )
    assert [span.parent for span in spans.named("request")] == [PARENT, PARENT, "", ""]
    assert all(span.ends for span in spans.all)
