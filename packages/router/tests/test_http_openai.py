"""OpenAI's own client, over a real socket, against a router whose verifier plays its part."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from conftest import Deploy, Deployment, answer, log_probs_at
from http_doors import MESSAGES, client_of

from paceline.wire.errors import PacelineError, Reason

HTTP = {"http": "127.0.0.1:0"}
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


def text_of(seed: int, num_tokens: int) -> str:
    return "".join(f"{token} " for token in answer(seed, num_tokens))


async def seen(deploy: Deploy, body: dict[str, Any], **fields: Any) -> Any:
    """The one request that a verifier gets for such a chat."""
    deployment = await deploy(**HTTP)
    verifier = await deployment.verifier("v", **fields)
    async with client_of(deployment) as client:
        given = {"model": "m", "messages": MESSAGES, **body}
        known = {"messages", "model", "n", "seed", "stop", "temperature", "top_p", "response_format", "max_tokens"}
        extra = {key: given.pop(key) for key in list(given) if key not in known}
        await client.chat.completions.create(**given, extra_body=extra)
    (request,) = verifier.requests
    return request


async def test_a_chat(deploy: Deploy) -> None:
    deployment = await deploy(**HTTP)
    verifier = await deployment.verifier("v")
    async with client_of(deployment) as client:
        messages: Any = [
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
        ]
        chat = await client.chat.completions.create(model="m", messages=messages, seed=7, max_completion_tokens=5)
    assert chat.object == "chat.completion"
    assert chat.model == "m"
    assert chat.id.startswith("chatcmpl-")
    (choice,) = chat.choices
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "length", None)
    assert (choice.message.role, choice.message.content) == ("assistant", text_of(7, 5))
    assert chat.usage is not None
    assert (chat.usage.prompt_tokens, chat.usage.completion_tokens, chat.usage.total_tokens) == (3, 5, 8)
    (request,) = verifier.requests
    assert request.request_id == chat.id
    assert [(one.role, one.content) for one in request.messages.messages] == [
        ("system", "be brief"),
        ("user", "one\ntwo"),
    ]
    assert request.sampling.temperature == 1.0
    assert not request.HasField("log_probs")
    assert not request.HasField("constraint")


async def test_an_answer_may_be_sent_back(deploy: Deploy) -> None:
    deployment = await deploy(**HTTP)
    verifier = await deployment.verifier("v")
    async with client_of(deployment) as client:
        chat = await client.chat.completions.create(model="m", messages=MESSAGES, max_tokens=2)
        turn = chat.choices[0].message.model_dump()
        history: Any = [*MESSAGES, turn, {"role": "user", "content": "go on"}]
        await client.chat.completions.create(model="m", messages=history, max_tokens=2)
    assert [one.role for one in verifier.requests[1].messages.messages] == ["user", "assistant", "user"]


async def test_a_stream_says_the_same_in_parts(deploy: Deploy) -> None:
    deployment = await deploy(**HTTP)
    await deployment.verifier("v", accepted=(0, 1, 1, 0))
    async with client_of(deployment) as client:
        stream = await client.chat.completions.create(
            model="m",
            messages=MESSAGES,
            seed=7,
            max_tokens=9,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
    assert len({chunk.id for chunk in chunks}) == 1
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    *parts, last = chunks
    assert parts[0].choices[0].delta.role == "assistant"
    assert all(chunk.choices[0].delta.role is None for chunk in parts[1:])
    assert "".join(chunk.choices[0].delta.content or "" for chunk in parts) == text_of(7, 9)
    assert [chunk.choices[0].finish_reason for chunk in parts] == [None] * 10 + ["length"]
    assert all("usage" in chunk.model_fields_set and chunk.usage is None for chunk in parts)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 9
    assert last.to_dict()["metrics"]["speculative_decoding"]["num_accepted_draft_tokens"] == 4  # type: ignore[index]


async def test_without_the_option_no_chunk_has_usage_and_the_last_has_the_metrics(deploy: Deploy) -> None:
    deployment = await deploy(**HTTP)
    await deployment.verifier("v", accepted=(0, 1))
    async with client_of(deployment) as client:
        stream = await client.chat.completions.create(model="m", messages=MESSAGES, max_tokens=4, stream=True)
        chunks = [chunk async for chunk in stream]
    assert all(chunk.usage is None for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "length"
    assert ["metrics" in chunk.to_dict() for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


async def test_n_choices_are_what_n_requests_with_the_next_seeds_would_get(deploy: Deploy) -> None:
    deployment = await deploy(**HTTP)
    verifier = await deployment.verifier("v")
    async with client_of(deployment) as client:
        chat = await client.chat.completions.create(model="m", messages=MESSAGES, seed=2**63 - 1, max_tokens=3, n=3)
        stream = await client.chat.completions.create(
            model="m", messages=MESSAGES, seed=7, max_tokens=6, n=2, stream=True
        )
        texts = {0: "", 1: ""}
        async for chunk in stream:
            texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert [choice.message.content for choice in chat.choices] == [text_of(2**63 - 1 + add, 3) for add in range(3)]
    assert [choice.index for choice in chat.choices] == [0, 1, 2]
    assert chat.usage is not None
    assert (chat.usage.prompt_tokens, chat.usage.completion_tokens) == (3, 9)
    assert "metrics" not in chat.to_dict()
    assert texts == {0: text_of(7, 6), 1: text_of(8, 6)}
    assert len({request.request_id for request in verifier.requests}) == 5


async def test_log_probs_of_a_chat(deploy: Deploy) -> None:
    deployment = await deploy(**HTTP)
    verifier = await deployment.verifier("v")
    async with client_of(deployment) as client:
        asked = {"model": "m", "messages": MESSAGES, "seed": 7, "max_tokens": 2, "logprobs": True, "top_logprobs": 2}
        chat = await client.chat.completions.create(**asked)  # type: ignore[call-overload]
        stream = await client.chat.completions.create(**asked, stream=True)  # type: ignore[call-overload]
        streamed = [
            token.token
            async for chunk in stream
            if chunk.choices[0].logprobs
            for token in chunk.choices[0].logprobs.content
        ]
    tokens = chat.choices[0].logprobs.content
    expected = [log_probs_at(7, position, 2) for position in range(2)]
    assert [token.token.encode() for token in tokens] == [one.token.piece for one in expected]
    assert [bytes(token.bytes) for token in tokens] == [one.token.piece for one in expected]
    assert [token.logprob for token in tokens] == pytest.approx([-0.5, -0.5])
    assert [top.logprob for top in tokens[0].top_logprobs] == pytest.approx([-0.5, -1.2])
    assert streamed == [token.token for token in tokens]
    assert verifier.requests[0].log_probs.top == 2


async def test_completions_of_several_prompts(deploy: Deploy) -> None:
    deployment = await deploy(**HTTP)
    verifier = await deployment.verifier("v")
    async with client_of(deployment) as client:
        done = await client.completions.create(model="m", prompt=["one", "two"], seed=7, n=2, logprobs=1, max_tokens=2)
        await client.completions.create(model="m", prompt=[5, 6], seed=7)
        await client.completions.create(model="m", prompt=[[5, 6], [7]], seed=7, max_tokens=1)
    assert done.object == "text_completion"
    assert [(choice.index, choice.text) for choice in done.choices] == [
        (0, text_of(7, 2)),
        (1, text_of(8, 2)),
        (2, text_of(7, 2)),
        (3, text_of(8, 2)),
    ]
    assert done.usage is not None
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (6, 8)
    shown = done.choices[0].logprobs
    assert shown is not None
    first, second = (f"{token} " for token in answer(7, 2))
    assert (shown.tokens, shown.text_offset) == ([first, second], [0, len(first)])
    assert shown.top_logprobs is not None
    assert list(shown.top_logprobs[0]) == [first]
    asked = {request.text or tuple(request.token_ids.ids) for request in verifier.requests}
    assert asked == {"one", "two", (5, 6), (7,)}
    assert verifier.requests[4].limits.max_tokens == 16


async def test_a_completion_as_a_stream(deploy: Deploy) -> None:
    deployment = await deploy(**HTTP)
    await deployment.verifier("v")
    async with client_of(deployment) as client:
        stream = await client.completions.create(model="m", prompt="p", seed=7, max_tokens=5, logprobs=0, stream=True)
        choices = [chunk.choices[0] async for chunk in stream]
    assert "".join(choice.text for choice in choices) == text_of(7, 5)
    assert [choice.finish_reason for choice in choices] == [None] * 5 + ["length"]
    offsets = [offset for choice in choices if choice.logprobs for offset in choice.logprobs.text_offset or ()]
    assert offsets == [len(text_of(7, count)) for count in range(5)]


async def test_every_option_reaches_the_verifier(deploy: Deploy) -> None:
    request = await seen(
        deploy,
        {
            "temperature": 0,
            "top_p": 0.5,
            "top_k": 40,
            "min_p": 0.1,
            "stop": ["END", "STOP"],
            "ignore_eos": True,
            "seed": -1,
            "user": "somebody",
            "paceline": {"drafters": ["d-1"], "budget": 12, "store": False},
        },
        drafters={"d-1": "suffix"},
    )
    assert (request.sampling.temperature, request.sampling.top_p, request.sampling.top_k) == (0.0, 0.5, 40)
    assert (request.sampling.min_p, request.sampling.seed) == (0.1, 2**64 - 1)
    assert (list(request.limits.stop), request.limits.ignore_eos) == (["END", "STOP"], True)
    assert (list(request.speculation.drafters), request.speculation.max_nodes) == (["d-1"], 12)
    assert request.no_store
    assert request.tenant == ""


async def test_speculation_may_be_off(deploy: Deploy) -> None:
    request = await seen(deploy, {"paceline": {"speculation": False}}, drafters={"d-1": "suffix"})
    assert request.speculation.off


@pytest.mark.parametrize(
    ("response_format", "schema"),
    [
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}, SCHEMA),
        ({"type": "text"}, None),
        (None, None),
    ],
)
async def test_response_formats_become_constraints(
    deploy: Deploy, response_format: dict[str, Any] | None, schema: dict[str, Any] | None
) -> None:
    request = await seen(deploy, {"response_format": response_format})
    if schema is None:
        assert not request.HasField("constraint")
    else:
        assert json.loads(request.constraint.json_schema) == schema


async def test_models_are_those_of_verifiers_that_take_requests(deploy: Deploy) -> None:
    deployment = await deploy(**HTTP)
    await deployment.verifier("v-1", model="org/a")
    await deployment.verifier("v-2", model="org/a")
    draining = await deployment.verifier("v-3", model="b", announced=False)
    deployment.announce(draining, draining=True)
    async with client_of(deployment) as client:
        assert [model.id for model in (await client.models.list()).data] == ["org/a"]
        assert (await client.models.retrieve("org/a")).owned_by == "paceline"
        with pytest.raises(openai.NotFoundError) as caught:
            await client.models.retrieve("b")
    assert caught.value.code == "model_not_found"


async def refused(deployment: Deployment, **fields: Any) -> openai.APIStatusError:
    async with client_of(deployment) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(**{"model": "m", "messages": MESSAGES, **fields})
    return caught.value


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("refusal", "kind", "code"),
    [
        (
            PacelineError(Reason.PROMPT_TOO_LONG, "too long", field="prompt"),
            openai.BadRequestError,
            "context_length_exceeded",
        ),
        (PacelineError(Reason.OUT_OF_RANGE, "no", field="limits.max_tokens"), openai.BadRequestError, "out_of_range"),
        (PacelineError(Reason.NO_CHAT_TEMPLATE, "none"), openai.BadRequestError, "no_chat_template"),
        (PacelineError(Reason.OVERLOADED, "full", retry_after_s=2.5), openai.RateLimitError, "overloaded"),
    ],
)
async def test_a_verifiers_refusal_has_its_status(
    deploy: Deploy, refusal: PacelineError, kind: type[openai.APIStatusError], code: str, stream: bool
) -> None:
    deployment = await deploy(**HTTP, failover_wait_s=0.0)
    await deployment.verifier("v", refusal=refusal)
    error = await refused(deployment, stream=stream)
    assert type(error) is kind
    assert error.code == code
    if kind is openai.RateLimitError:
        assert error.response.headers["retry-after"] == "3"
    elif refusal.field == "limits.max_tokens":
        assert error.param == "max_tokens"


async def test_an_unknown_model(deploy: Deploy) -> None:
    deployment = await deploy(**HTTP)
    await deployment.verifier("v")
    error = await refused(deployment, model="other")
    assert (type(error), error.code, error.param) == (openai.NotFoundError, "model_not_found", "model")
    assert "there are: m" in error.message


async def test_nobody_there_and_too_many(deploy: Deploy) -> None:
    deployment = await deploy(**HTTP, max_requests=2)
    error = await refused(deployment)
    assert (error.status_code, error.code, error.response.headers["retry-after"]) == (503, "no_verifier", "1")
    await deployment.verifier("v")
    error = await refused(deployment, n=3)
    assert (type(error), error.response.headers["retry-after"]) == (openai.RateLimitError, "1")
    assert deployment.router.admission.num_active == 0


async def test_a_lost_verifier_in_mid_stream_ends_it_with_an_error(deploy: Deploy) -> None:
    deployment = await deploy(**HTTP, failover_wait_s=0.05)
    await deployment.verifier("v", fail_at=3)
    async with client_of(deployment) as client:
        stream = await client.chat.completions.create(model="m", messages=MESSAGES, seed=7, stream=True)
        texts: list[str] = []

        async def read() -> None:
            async for chunk in stream:
                texts.append(chunk.choices[0].delta.content or "")

        with pytest.raises(openai.APIError, match="verifier was lost after 3 tokens") as caught:
            await read()
    assert "".join(texts) == text_of(7, 3)
    assert caught.value.code == "verifier_lost"


async def test_a_stream_goes_on_at_another_verifier(deploy: Deploy) -> None:
    deployment = await deploy(**HTTP)
    await deployment.verifier("a", fail_at=3)
    await deployment.verifier("b")
    async with client_of(deployment) as client:
        stream = await client.chat.completions.create(model="m", messages=MESSAGES, seed=7, max_tokens=9, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == text_of(7, 9)


@pytest.mark.parametrize("field", ["logprobs", "response_format"])
async def test_what_no_verifier_knows_is_refused_and_where_one_does_it_goes_there(deploy: Deploy, field: str) -> None:
    wanted: dict[str, Any] = {"logprobs": True} if field == "logprobs" else {"response_format": {"type": "json_object"}}
    deployment = await deploy(**HTTP)
    old = await deployment.verifier("a-old", protocol=(1, 2))
    error = await refused(deployment, **wanted)
    assert (type(error), error.code, error.param) == (openai.BadRequestError, "incompatible_version", field)
    assert "protocol 1.3" in error.message
    new = await deployment.verifier("b-new", protocol=(1, 3))
    async with client_of(deployment) as client:
        await client.chat.completions.create(model="m", messages=MESSAGES, max_tokens=2, **wanted)
    assert (len(old.requests), len(new.requests)) == (0, 1)
