"""What is wrong with a request is said in OpenAI's shape, and nothing else suffers from it."""

from __future__ import annotations

import asyncio
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import Deploy, Deployment, eventually
from http_doors import MESSAGES, Reply, address_of, asked, chat_bytes, reply_of, request_bytes, said
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from paceline.router.http import protocol
from paceline.router.http.door import MAX_HEADER_BYTES, Door
from paceline.router.http.limits import MAX_BODY_BYTES
from paceline.router.http.requests import ChatRequest, CompletionRequest
from paceline.router.http.validation import MAX_MESSAGE, failure_of_body

HTTP = {"http": "127.0.0.1:0"}
CHAT = {"model": "m", "messages": MESSAGES}
IMAGE_MESSAGE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}


async def chat(deployment: Deployment, **fields: Any) -> Reply:
    return await said(deployment, chat_bytes(**fields))


async def still_answers(deployment: Deployment) -> None:
    assert (await chat(deployment, max_tokens=2)).status == 200
    assert deployment.router.admission.num_active == 0


@pytest.mark.parametrize(
    ("fields", "param", "code", "words"),
    [
        ({"tools": [{"type": "function"}]}, "tools", "unsupported_parameter", "null or []"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "unsupported_parameter", "not supported"),
        ({"presence_penalty": 0.5}, "presence_penalty", "unsupported_parameter", "not supported"),
        ({"frequency_penalty": -1}, "frequency_penalty", "unsupported_parameter", "not supported"),
        ({"reasoning_effort": "high"}, "reasoning_effort", "unsupported_parameter", "not supported"),
        ({"messages": [IMAGE_MESSAGE]}, "messages.0.content.0", "unsupported_parameter", "image_url"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role", "invalid_value", "'user'"),
        ({"messages": []}, "messages", "invalid_value", "at least 1"),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "invalid_value", "required"),
        ({"messages": [{"role": "user", "content": "x", "mood": 1}]}, "messages.0.mood", "unknown_parameter", "mood"),
        ({"prompt": "text"}, "prompt", "unknown_parameter", "prompt"),
        ({"colour": "red"}, "colour", "unknown_parameter", "colour"),
        ({"paceline": {"speed": 2}}, "paceline.speed", "unknown_parameter", "speed"),
        ({"n": 17}, "n", "invalid_value", "16; it is 17"),
        ({"n": 0}, "n", "invalid_value", "1; it is 0"),
        ({"temperature": 101}, "temperature", "invalid_value", "100; it is 101"),
        ({"temperature": "1"}, "temperature", "invalid_value", "number"),
        ({"top_p": 0}, "top_p", "invalid_value", "greater than 0"),
        ({"seed": 2**64}, "seed", "invalid_value", str(2**64 - 1)),
        ({"stop": ["x"] * 17}, "stop", "invalid_value", "16"),
        ({"stop": "x" * 257}, "stop", "invalid_value", "256"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value", "it is 0"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "invalid_value", "differ"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value", "20; it is 21"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_value", "logprobs: true"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value", "stream: true"),
        ({"response_format": {"type": "yaml"}}, "response_format", "invalid_value", "json_schema"),
        ({"model": "m" * 201}, "model", "invalid_value", "200"),
        ({"model": ""}, "model", "invalid_value", "at least 1"),
        ({"user": "\ud800"}, "user", "invalid_value", "unicode"),
        ({"stop": "\ud800"}, "stop", "invalid_value", "unicode"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages.0.content", "invalid_value", "unicode"),
        ({"paceline": {"drafters": ["a"], "speculation": False}}, "paceline.drafters", "invalid_value", "false"),
        ({"paceline": {"steps": True}}, "paceline.steps", "invalid_value", "stream: true"),
        ({"paceline": {"steps": True}, "stream": False}, "paceline.steps", "invalid_value", "stream: true"),
        ({"paceline": {"steps": 1}, "stream": True}, "paceline.steps", "invalid_value", "boolean"),
    ],
)
def test_a_field_that_is_wrong_is_named(fields: dict[str, Any], param: str, code: str, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ChatRequest.model_validate({**CHAT, **fields})
    errors = [{**error, "loc": ("body", *error["loc"])} for error in caught.value.errors()]
    failure = failure_of_body(errors)
    assert (failure.status, failure.param, failure.code) == (400, param, code)
    assert words in failure.message


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": None, "tool_choice": "auto", "logit_bias": {}, "presence_penalty": 0, "frequency_penalty": 0.0},
        {"store": False, "parallel_tool_calls": True, "modalities": ["text"], "service_tier": "auto", "metadata": {}},
        {"stream": None, "n": None, "temperature": None, "stop": None, "seed": None, "logprobs": None, "user": None},
        {"messages": [{"role": "user", "content": "x", "name": None, "tool_calls": []}]},
        {"paceline": {"steps": False}, "stream": False},
        {"stop": [], "response_format": None, "paceline": None, "stream_options": None, "top_k": -1},
    ],
)
def test_what_asks_for_nothing_is_accepted(fields: dict[str, Any]) -> None:
    ChatRequest.model_validate({**CHAT, **fields})


@pytest.mark.parametrize("fields", [{"best_of": 2}, {"suffix": "end"}, {"echo": True}, {"logprobs": 6}, {"prompt": []}])
def test_a_completion_refuses_likewise(fields: dict[str, Any]) -> None:
    CompletionRequest.model_validate({"model": "m", "prompt": "x", "best_of": 1, "echo": False, "suffix": ""})
    with pytest.raises(ValidationError):
        CompletionRequest.model_validate({"model": "m", "prompt": "x", **fields})


def test_the_number_of_choices_is_bounded_over_all_prompts() -> None:
    CompletionRequest.model_validate({"model": "m", "prompt": ["x"] * 4, "n": 16})
    with pytest.raises(ValidationError, match="it must be at most 64"):
        CompletionRequest.model_validate({"model": "m", "prompt": ["x"] * 5, "n": 16})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(name=st.sampled_from(sorted(ChatRequest.model_fields)) | st.text(max_size=8), value=JSON)
def test_whatever_a_field_is_the_refusal_is_short_and_has_a_name(name: str, value: Any) -> None:
    try:
        ChatRequest.model_validate({**CHAT, name: value})
    except ValidationError as error:
        failure = failure_of_body([{**one, "loc": ("body", *one["loc"])} for one in error.errors()])
        assert failure.status == 400
        assert failure.message
        assert len(failure.message) <= MAX_MESSAGE
        if name in ChatRequest.model_fields:
            assert failure.param is not None
            assert failure.param.startswith(name)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"[]", "invalid_json"),
        (b'"text"', "invalid_json"),
        (b'{"model": "\xff"}', "invalid_request"),
        (b'{"model": "m", "messages": [], "n": 1e999}', "invalid_value"),
        (b'{"model": "m", "temperature": NaN, "messages": [{"role": "user", "content": "x"}]}', "invalid_value"),
        (b"[" * 200_000, "invalid_request"),
        (b'{"model": ' + b"1" * 10_000 + b"}", "invalid_request"),
    ],
)
async def test_what_is_no_json_object(deploy: Deploy, body: bytes, code: str) -> None:
    deployment = await deploy(**HTTP)
    await deployment.verifier("v")
    reply = await asked(deployment, "POST", "/v1/chat/completions", body)
    assert reply.status == 400
    assert reply.error["type"] == "invalid_request_error"
    assert reply.error["code"] == code
    await still_answers(deployment)


async def test_a_schema_that_json_cannot_say(deploy: Deploy) -> None:
    deployment = await deploy(**HTTP)
    await deployment.verifier("v")
    for schema in ('{"minimum": NaN}', '{"not": ' * 900 + "{}" + "}" * 900):
        body = json.dumps({**CHAT, "response_format": {"type": "json_schema", "json_schema": {"name": "x"}}})
        body = body.replace('"name": "x"', f'"name": "x", "schema": {schema}')
        reply = await asked(deployment, "POST", "/v1/chat/completions", body.encode())
        assert reply.status in (200, 400)
        if "NaN" in schema:
            assert reply.error["param"] == "response_format.json_schema.schema"
    await still_answers(deployment)


async def test_another_content_type(deploy: Deploy) -> None:
    deployment = await deploy(**HTTP)
    reply = await asked(deployment, "POST", "/v1/completions", b"a=1", content_type="application/x-www-form-urlencoded")
    assert (reply.status, reply.error["code"]) == (400, "invalid_json")
    assert "application/json" in reply.error["message"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("POST", "/", 405, "method_not_allowed"),
        ("GET", "/docs", 404, "not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/models/none", 404, "model_not_found"),
    ],
)
async def test_no_such_route(deploy: Deploy, method: str, path: str, status: int, code: str) -> None:
    deployment = await deploy(**HTTP)
    reply = await asked(deployment, method, path)
    assert (reply.status, reply.error["code"]) == (status, code)
    assert (status == 405) == ("allow" in reply.headers)


@pytest.mark.parametrize("told", [True, False], ids=["content-length", "chunked"])
async def test_a_body_that_is_too_large(deploy: Deploy, told: bool) -> None:
    deployment = await deploy(**HTTP)
    await deployment.verifier("v")
    body = json.dumps({**CHAT, "user": "x" * (MAX_BODY_BYTES + 1)}).encode()
    if told:
        reply = await asked(deployment, "POST", "/v1/chat/completions", body)
    else:
        head = request_bytes(
            "POST", "/v1/chat/completions", content_type="application/json", transfer_encoding="chunked"
        )
        reply = await said(deployment, head + f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n")
    assert (reply.status, reply.error["code"]) == (413, "body_too_large")
    assert str(MAX_BODY_BYTES) in reply.error["message"]
    await still_answers(deployment)


async def test_headers_that_are_too_long_and_what_is_no_http(deploy: Deploy) -> None:
    deployment = await deploy(**HTTP)
    await deployment.verifier("v")
    # Just over the limit: what is left unread when a server closes would take its answer along.
    long = b"GET /health HTTP/1.1\r\nhost: x\r\nx-long: " + b"x" * MAX_HEADER_BYTES
    for data in (long, b"\x16\x03\x01 hello\r\n\r\n"):
        reply = await said(deployment, data)
        assert (reply.status, reply.error["code"]) == (400, "invalid_http")
    await still_answers(deployment)


async def test_a_body_that_does_not_come_and_headers_that_do_not_end(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEADERS_TIMEOUT_S", 0.2)
    deployment = await deploy(**HTTP)
    await deployment.verifier("v")
    router = deployment.router
    door = Door("127.0.0.1:0", router.settings, router.intake, router.lock.access, body_timeout_s=0.2)
    await door.open()
    deployment.stack.push_async_callback(door.close)
    whole = chat_bytes()
    host, _, port = door.address.rpartition(":")
    async with asyncio.timeout(5.0):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(whole[:-10])
        reply = reply_of(await reader.read())
        writer.close()
        assert (reply.status, reply.error["code"]) == (408, "timeout")
        for start in (b"", whole[:20]):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(start)
            assert await reader.read() == b""
            writer.close()
    await still_answers(deployment)


async def test_random_bytes_never_are_a_server_error(deploy: Deploy) -> None:
    deployment = await deploy(**HTTP)
    await deployment.verifier("v")
    draw = random.Random(7)
    whole = chat_bytes(max_tokens=2)
    for _ in range(40):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 6)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        reader, writer = await asyncio.open_connection(*address_of(deployment))
        writer.write(bytes(data))
        writer.write_eof()
        async with asyncio.timeout(5.0):
            answered = await reader.read()
        writer.close()
        if answered:
            assert reply_of(answered).status < 500, bytes(data)
    await eventually(lambda: deployment.router.admission.num_active == 0)
    await still_answers(deployment)


async def test_what_surrounds_the_api(deploy: Deploy) -> None:
    deployment = await deploy(**HTTP)
    await deployment.verifier("v")
    await still_answers(deployment)
    assert (await asked(deployment, "GET", "/health")).json == {"status": "ok", "verifiers": 1}
    version = (await asked(deployment, "GET", "/version")).json
    assert set(version) == {"version", "protocol"}
    metrics = await asked(deployment, "GET", "/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    lines = metrics.body.decode().splitlines()
    assert 'paceline:http_responses_total{route="/v1/chat/completions",status="200"} 1.0' in lines
    assert 'paceline:router_members{role="verifier"} 1.0' in lines
    assert "paceline:router_requests_finished_total 1.0" in lines
    document = (await asked(deployment, "GET", "/openapi.json")).json
    assert {"/v1/models", "/v1/chat/completions", "/v1/completions", "/health", "/metrics", "/version"} <= set(
        document["paths"]
    )
    schemas = document["components"]["schemas"]
    assert schemas["Paceline"]["properties"]["steps"]["type"] == "boolean"
    assert {"$ref": "#/components/schemas/Told"} in schemas["ChatChunk"]["properties"]["paceline"]["anyOf"]
    named = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert "ChatChunk" in named
    assert named <= set(schemas)
    deployment.router.admission.draining = True
    assert (await asked(deployment, "GET", "/health")).status == 503
    refused = await chat(deployment)
    assert (refused.status, refused.error["code"]) == (503, "draining")


async def test_no_prompt_is_in_a_log(deploy: Deploy, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    deployment = await deploy(**HTTP)
    await deployment.verifier("v", fail_at=1)
    messages = [{"role": "user", "content": "a secret of mine"}]
    await said(deployment, chat_bytes(messages=messages, tools=["a secret of mine"]))
    await said(deployment, chat_bytes(messages=messages, model="a secret"))
    deployment.announce(await deployment.verifier("w"))
    assert (await said(deployment, chat_bytes(messages=messages))).status == 200
    captured = capfd.readouterr()
    assert "secret" not in captured.out + captured.err
