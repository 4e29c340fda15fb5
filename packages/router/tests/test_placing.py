"""Where requests go that begin like others: to the verifier that read it, unless that is busy, and nobody else's."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from conftest import Deploy, Deployment, FakeVerifier, answer, eventually
from http_doors import client_of

from paceline.v1 import generation_pb2, types_pb2

QUESTION = "What is the airspeed velocity of an unladen swallow, and why does it matter here? " * 8


def chat(*contents: str, **fields: Any) -> generation_pb2.GenerateRequest:
    """A conversation; user and assistant take turns."""
    messages = [
        types_pb2.ChatMessage(role="assistant" if index % 2 else "user", content=content)
        for index, content in enumerate(contents)
    ]
    return generation_pb2.GenerateRequest(
        messages=types_pb2.ChatMessages(messages=messages),
        sampling=types_pb2.Sampling(seed=7),
        limits=types_pb2.Limits(max_tokens=8),
        **fields,
    )


async def asked(deployment: Deployment, request: generation_pb2.GenerateRequest) -> str:
    """The answer's text, when the request has left its verifier."""
    text = ""
    async for event in deployment.stub.Generate(request):
        text += event.tokens.text
    await eventually(lambda: deployment.router.admission.num_active == 0)
    return text


async def pair(deployment: Deployment) -> tuple[FakeVerifier, FakeVerifier]:
    return await deployment.verifier("a"), await deployment.verifier("b")


def loaded(deployment: Deployment, first: tuple[FakeVerifier, int], second: tuple[FakeVerifier, int]) -> None:
    """Verifiers announce so many sessions, of the 4 that they run at once."""
    for verifier, load in (first, second):
        deployment.announce(verifier, load=load)


async def begun_at_b(deployment: Deployment, a: FakeVerifier, b: FakeVerifier, **fields: Any) -> str:
    """A conversation whose first turn went to b, since a was busier; now they are equally idle."""
    loaded(deployment, (a, 1), (b, 0))
    text = await asked(deployment, chat(QUESTION, **fields))
    assert (len(a.requests), len(b.requests)) == (0, 1)
    loaded(deployment, (a, 0), (b, 0))
    return text


async def test_a_conversation_stays_where_it_was_read(deploy: Deploy) -> None:
    deployment = await deploy()
    a, b = await pair(deployment)
    conversation = [QUESTION, await begun_at_b(deployment, a, b)]
    for turn in range(4):
        conversation += [f"and then? {turn}"]
        conversation += [await asked(deployment, chat(*conversation))]
    assert (len(a.requests), len(b.requests)) == (0, 5)


async def test_it_stays_while_its_verifier_is_a_little_busier_and_goes_when_that_is_too_busy(deploy: Deploy) -> None:
    deployment = await deploy()
    a, b = await pair(deployment)
    text = await begun_at_b(deployment, a, b)
    loaded(deployment, (a, 0), (b, 1))
    await asked(deployment, chat(QUESTION, text, "and?"))
    assert (len(a.requests), len(b.requests)) == (0, 2)
    loaded(deployment, (a, 0), (b, 3))
    await asked(deployment, chat(QUESTION, text, "and?"))
    assert (len(a.requests), len(b.requests)) == (1, 2)


async def test_then_it_stays_there(deploy: Deploy) -> None:
    deployment = await deploy()
    a, b = await pair(deployment)
    text = await begun_at_b(deployment, a, b)
    loaded(deployment, (a, 0), (b, 3))
    await asked(deployment, chat(QUESTION, text, "and?"))
    loaded(deployment, (a, 1), (b, 0))
    await asked(deployment, chat(QUESTION, text, "and?", "so", "and then?"))
    assert (len(a.requests), len(b.requests)) == (2, 1)


async def test_a_full_verifier_has_no_preference(deploy: Deploy) -> None:
    deployment = await deploy(affinity_slack=1.0)
    a, b = await pair(deployment)
    text = await begun_at_b(deployment, a, b)
    loaded(deployment, (a, 3), (b, 4))
    await asked(deployment, chat(QUESTION, text, "and?"))
    assert (len(a.requests), len(b.requests)) == (1, 1)


@pytest.mark.parametrize(
    ("settings", "first", "second"),
    [
        ({"affinity_slack": 0.0}, {}, {}),
        ({}, {"tenant": "one"}, {"tenant": "another"}),
        ({}, {"no_store": True}, {}),
    ],
    ids=["switched off", "another tenant", "not to be remembered"],
)
async def test_without_affinity_the_least_loaded_gets_it(
    deploy: Deploy, settings: dict[str, Any], first: dict[str, Any], second: dict[str, Any]
) -> None:
    deployment = await deploy(**settings)
    a, b = await pair(deployment)
    text = await begun_at_b(deployment, a, b, **first)
    await asked(deployment, chat(QUESTION, text, "and?", **second))
    assert (len(a.requests), len(b.requests)) == (1, 1)


async def test_after_a_failover_the_conversation_is_where_it_was_finished(deploy: Deploy) -> None:
    deployment = await deploy()
    a, b = await pair(deployment)
    loaded(deployment, (a, 1), (b, 0))
    b.fail_at = 3
    text = await asked(deployment, chat(QUESTION))
    assert text == "".join(f"{token} " for token in answer(7, 8))
    b.fail_at = -1
    third = await deployment.verifier("0")  # the first by name
    await asked(deployment, chat(QUESTION, text, "and?"))
    assert (len(a.requests), len(b.requests), len(third.requests)) == (2, 1, 0)


async def test_a_burst_that_begins_alike_doesn_t_all_go_to_one(deploy: Deploy) -> None:
    deployment = await deploy()
    a, b = await pair(deployment)
    await begun_at_b(deployment, a, b)
    a.stop_at = b.stop_at = 0
    burst = [asyncio.create_task(asked(deployment, chat(QUESTION, "so", f"and {turn}?"))) for turn in range(6)]
    await eventually(lambda: len(a.requests) + len(b.requests) == 7)
    assert len(a.requests) == 2  # (2 + 1) / 4 - 0 > slack: b has up to two more than a
    for verifier in (a, b):
        verifier.resume.set()
    await asyncio.gather(*burst)


async def test_a_conversation_over_http_stays_too(deploy: Deploy) -> None:
    deployment = await deploy(http="127.0.0.1:0")
    a, b = await pair(deployment)
    loaded(deployment, (a, 1), (b, 0))
    messages: Any = [{"role": "developer", "content": "be brief"}, {"role": "user", "content": QUESTION}]
    async with client_of(deployment) as client:
        for _ in range(3):
            chat = await client.chat.completions.create(model="m", messages=messages, seed=7, max_completion_tokens=5)
            loaded(deployment, (a, 0), (b, 0))
            messages += [chat.choices[0].message.to_dict(), {"role": "user", "content": "and?"}]
    assert (len(a.requests), len(b.requests)) == (0, 3)
