"""What strangers send is refused with its field and limit, and what is within bounds passes."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.router.admission import Admission
from paceline.router.checks import MAX_TEXT_BYTES, check_request
from paceline.router.convert import arm_label, member_from_proto, member_to_proto, speculation_to_proto
from paceline.router.totals import merge_outcomes
from paceline.v1 import generation_pb2, router_pb2, types_pb2
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.version import PROTOCOL_MAJOR, make_peer


def request(**fields: Any) -> generation_pb2.GenerateRequest:
    if not {"text", "messages", "token_ids"} & set(fields):
        fields["text"] = "x"
    return generation_pb2.GenerateRequest(**fields)


def chat(count: int, content: str = "x") -> types_pb2.ChatMessages:
    return types_pb2.ChatMessages(messages=[types_pb2.ChatMessage(role="user", content=content)] * count)


def sampling(**fields: float) -> generation_pb2.GenerateRequest:
    return request(sampling=types_pb2.Sampling(**fields))


def stop(*stops: str) -> generation_pb2.GenerateRequest:
    return request(limits=types_pb2.Limits(stop=stops))


def named(*drafters: str, **fields: Any) -> generation_pb2.GenerateRequest:
    return request(speculation=types_pb2.Speculation(drafters=drafters, **fields))


def schema(text: str, **limits: Any) -> generation_pb2.GenerateRequest:
    return request(constraint=generation_pb2.Constraint(json_schema=text), limits=types_pb2.Limits(**limits))


def steps(max_nodes: int) -> generation_pb2.GenerateRequest:
    return request(steps=generation_pb2.StepsRequest(max_nodes=max_nodes))


def log_probs(top: int) -> generation_pb2.GenerateRequest:
    return request(log_probs=generation_pb2.LogProbsRequest(top=top))


GOOD = {
    "text": request(),
    "longest text": request(text="x" * MAX_TEXT_BYTES),
    "most messages": request(messages=chat(1024)),
    "token ids": request(token_ids=types_pb2.TokenIds(ids=[1])),
    "hottest": sampling(temperature=100.0),
    "top_p 1": sampling(top_p=1.0),
    "min_p 0": sampling(min_p=0.0),
    "most stops": stop(*["x" * 256] * 16),
    "most drafters": named(*["x" * 200] * 16),
    "most log-probabilities": log_probs(20),
    "most nodes told": steps(256),
    "longest schema": schema("é" * 32768),
    "longest names": request(request_id="x" * 200, tenant="x" * 200, model="x" * 200),
}
BAD = {
    "no prompt": (generation_pb2.GenerateRequest(), Reason.EMPTY_PROMPT, "prompt"),
    "empty text": (request(text=""), Reason.EMPTY_PROMPT, "text"),
    "no messages": (request(messages=chat(0)), Reason.EMPTY_PROMPT, "messages"),
    "no token ids": (request(token_ids=types_pb2.TokenIds()), Reason.EMPTY_PROMPT, "token_ids"),
    "long text": (request(text="x" * (MAX_TEXT_BYTES + 1)), Reason.PROMPT_TOO_LONG, "text"),
    "long text in bytes": (request(text="é" * (MAX_TEXT_BYTES // 2 + 1)), Reason.PROMPT_TOO_LONG, "text"),
    "long messages": (request(messages=chat(5, "x" * (MAX_TEXT_BYTES // 4))), Reason.PROMPT_TOO_LONG, "messages"),
    "many messages": (request(messages=chat(1025)), Reason.OUT_OF_RANGE, "messages"),
    "long id": (request(request_id="x" * 201), Reason.OUT_OF_RANGE, "request_id"),
    "long tenant": (request(tenant="x" * 201), Reason.OUT_OF_RANGE, "tenant"),
    "long model": (request(model="x" * 201), Reason.OUT_OF_RANGE, "model"),
    "cold": (sampling(temperature=-0.1), Reason.OUT_OF_RANGE, "sampling.temperature"),
    "hot": (sampling(temperature=100.1), Reason.OUT_OF_RANGE, "sampling.temperature"),
    "infinite": (sampling(temperature=math.inf), Reason.OUT_OF_RANGE, "sampling.temperature"),
    "no number": (sampling(temperature=math.nan), Reason.OUT_OF_RANGE, "sampling.temperature"),
    "top_p 0": (sampling(top_p=0.0), Reason.OUT_OF_RANGE, "sampling.top_p"),
    "top_p over 1": (sampling(top_p=1.01), Reason.OUT_OF_RANGE, "sampling.top_p"),
    "top_p no number": (sampling(top_p=math.nan), Reason.OUT_OF_RANGE, "sampling.top_p"),
    "min_p 1": (sampling(min_p=1.0), Reason.OUT_OF_RANGE, "sampling.min_p"),
    "min_p negative": (sampling(min_p=-0.1), Reason.OUT_OF_RANGE, "sampling.min_p"),
    "many log-probabilities": (log_probs(21), Reason.OUT_OF_RANGE, "log_probs.top"),
    "many nodes told": (steps(257), Reason.OUT_OF_RANGE, "steps.max_nodes"),
    "long schema": (schema("x" * 65537), Reason.OUT_OF_RANGE, "constraint.json_schema"),
    "long schema in bytes": (schema("é" * 32769), Reason.OUT_OF_RANGE, "constraint.json_schema"),
    "no constraint in it": (request(constraint=generation_pb2.Constraint()), Reason.MALFORMED, "constraint"),
    "endless document": (schema("{}", ignore_eos=True), Reason.MALFORMED, "limits.ignore_eos"),
    "many stops": (stop(*["x"] * 17), Reason.OUT_OF_RANGE, "limits.stop"),
    "empty stop": (stop(""), Reason.OUT_OF_RANGE, "limits.stop"),
    "long stop": (stop("x" * 257), Reason.OUT_OF_RANGE, "limits.stop"),
    "many drafters": (named(*["x"] * 17), Reason.OUT_OF_RANGE, "speculation.drafters"),
    "long drafter": (named("x" * 201), Reason.OUT_OF_RANGE, "speculation.drafters"),
    "off and named": (named("x", off=True), Reason.MALFORMED, "speculation"),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_request_at_its_bounds_passes(name: str) -> None:
    check_request(GOOD[name])


@pytest.mark.parametrize("name", BAD)
def test_a_request_beyond_its_bounds_is_refused_by_field(name: str) -> None:
    message, reason, field = BAD[name]
    with pytest.raises(PacelineError) as refused:
        check_request(message)
    assert (refused.value.reason, refused.value.field) == (reason, field)


@given(st.binary(max_size=200))
def test_any_bytes_that_parse_pass_or_are_refused_and_nothing_else(content: bytes) -> None:
    for message, check in (
        (generation_pb2.GenerateRequest(), check_request),
        (router_pb2.Member(), member_from_proto),
    ):
        try:
            message.ParseFromString(content)
        except Exception:
            continue  # gRPC refuses it before it comes to us
        with contextlib.suppress(PacelineError):
            check(message)  # type: ignore[operator]


def member(**fields: Any) -> router_pb2.Member:
    peer = make_peer("paceline-verifier", "0.1.0")
    said = {"id": "v", "role": router_pb2.ROLE_VERIFIER, "address": "127.0.0.1:7710", "model": "m", "peer": peer}
    return router_pb2.Member(**{**said, **fields})


MEMBERS = {
    "no id": ({"id": ""}, Reason.MALFORMED),
    "no address": ({"address": ""}, Reason.MALFORMED),
    "no model": ({"model": ""}, Reason.MALFORMED),
    "no role": ({"role": 0}, Reason.MALFORMED),
    "unknown role": ({"role": 9}, Reason.MALFORMED),
    "a path": ({"address": "unix:/run/secret.sock"}, Reason.MALFORMED),
    "a scheme": ({"address": "dns:///host:1"}, Reason.MALFORMED),
    "port 0": ({"address": "host:0"}, Reason.MALFORMED),
    "port too high": ({"address": "host:65536"}, Reason.MALFORMED),
    "long id": ({"id": "x" * 201}, Reason.OUT_OF_RANGE),
    "long name": ({"name": "x" * 201}, Reason.OUT_OF_RANGE),
    "long address": ({"address": "x" * 200 + ":1"}, Reason.OUT_OF_RANGE),
    "many connected": ({"connected": ["d"] * 1025}, Reason.OUT_OF_RANGE),
    "many strategies": ({"strategies": ["s"] * 33}, Reason.OUT_OF_RANGE),
    "long connected": ({"connected": ["d" * 201]}, Reason.OUT_OF_RANGE),
    "another protocol": ({"peer": types_pb2.Peer(protocol_major=PROTOCOL_MAJOR + 1)}, Reason.INCOMPATIBLE_VERSION),
    "no peer": ({"peer": types_pb2.Peer()}, Reason.INCOMPATIBLE_VERSION),
}


@pytest.mark.parametrize("name", MEMBERS)
def test_a_wrong_announcement_is_refused(name: str) -> None:
    fields, reason = MEMBERS[name]
    with pytest.raises(PacelineError) as refused:
        member_from_proto(member(**fields))
    assert refused.value.reason is reason


@pytest.mark.parametrize("address", ["localhost:1", "10.0.0.1:65535", "[::1]:7710", "a-b.c_d.example:80"])
def test_what_was_announced_is_told_to_others_unchanged(address: str) -> None:
    message = member(
        address=address, connected=["d"] * 1024, load=3, capacity=8, draining=True, tokenizer_hash="h", own=True
    )
    assert member_to_proto(member_from_proto(message)) == message


def test_no_drafters_is_sent_as_off_because_an_empty_list_means_all() -> None:
    assert speculation_to_proto([], 0).off
    assert not speculation_to_proto(["a"], 0).off
    assert arm_label(router_pb2.ArmStatus()) == "none"


def test_totals_are_sums_by_drafter_and_strategy() -> None:
    def outcome(drafter: str, accepted: int) -> generation_pb2.Outcome:
        credit = generation_pb2.DrafterCredit(drafter_id=drafter, strategy="s", drafter_name="n", accepted=accepted)
        return generation_pb2.Outcome(tokens=9, steps=2, verify_s=0.5, prompt_tokens=7, drafters=[credit])

    total = merge_outcomes([outcome("a", 1), outcome("b", 2), outcome("a", 4)], num_tokens=30, elapsed_s=2.5)
    assert (total.tokens, total.steps, total.verify_s, total.elapsed_s, total.prompt_tokens) == (30, 6, 1.5, 2.5, 7)
    assert [(credit.drafter_id, credit.accepted) for credit in total.drafters] == [("a", 5), ("b", 2)]


def test_admission_gives_its_place_back_whatever_happens_and_keeps_ids_distinct() -> None:
    admission = Admission(max_requests=2)
    with admission.admitted("a"):
        with pytest.raises(PacelineError) as refused, admission.admitted("a"):
            pass
        assert refused.value.reason is Reason.DUPLICATE_REQUEST
        with admission.admitted("b"), pytest.raises(PacelineError) as refused, admission.admitted("c"):
            pass
        assert refused.value.reason is Reason.OVERLOADED
    with pytest.raises(KeyError), admission.admitted("a"):
        raise KeyError
    assert (admission.num_active, admission.num_finished) == (0, 3)
    assert admission.idle.is_set()
