"""What steps verified, in the chunks of a stream."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import Deploy, Deployment, answer, eventually
from http_doors import asked, chat_bytes, said

from paceline.router.http.steps import told_outcome, told_tokens
from paceline.v1 import generation_pb2
from paceline.wire.errors import PacelineError, Reason

HTTP = {"http": "127.0.0.1:0"}
STEPS = {"stream": True, "max_tokens": 6, "paceline": {"steps": True}}


def chunks_of(body: bytes) -> list[dict[str, Any]]:
    """What a stream's events say; the last is [DONE]."""
    *events, done = [line.removeprefix("data: ") for line in body.decode().splitlines() if line.startswith("data: ")]
    assert done == "[DONE]"
    return [json.loads(event) for event in events]


async def streamed(deployment: Deployment, **fields: Any) -> list[dict[str, Any]]:
    reply = await said(deployment, chat_bytes(**{**STEPS, **fields}))
    assert reply.status == 200
    return chunks_of(reply.body)


async def test_each_chunk_with_tokens_tells_of_them_and_of_their_step(deploy: Deploy) -> None:
    deployment = await deploy(**HTTP)
    verifier = await deployment.verifier("v", accepted=(0, 1))
    opening, *parts, end = await streamed(deployment)
    assert "paceline" not in opening
    (request,) = verifier.requests
    assert request.HasField("steps")
    for position, (chunk, token) in enumerate(zip(parts, answer(7, 6), strict=True)):
        right = bool(position % 2)
        assert chunk["paceline"] == {
            "tokens": [{"id": token, "bytes": [*f"{token} ".encode()], "source": "d/s" if right else None}],
            "step": {
                "nodes": [
                    {
                        "id": token + (not right),
                        "bytes": [0xC3],
                        "parent": -1,
                        "sources": ["d/s", "e/t"],
                        "probability": 0.9,
                        "accepted": right,
                    },
                    {
                        "id": 5,
                        "bytes": [120],
                        "parent": 0,
                        "sources": ["e/t"],
                        "probability": 0.25,
                        "accepted": False,
                    },
                ],
                "hidden_nodes": 3,
                "step_s": 0.02,
                "wait_s": 0.001,
                "rows": 9,
                "plain_step_s": 0.018,
            },
        }
    assert end["choices"][0]["finish_reason"] == "length"
    assert end["paceline"] == {
        "outcome": {
            "tokens": 6,
            "steps": 6,
            "nodes": 6,
            "verify_s": 0.06,
            "plain_s": 0.06,
            "wait_s": 0.0,
            "prefill_s": 0.0,
            "elapsed_s": 0.0,
            "prompt_tokens": 3,
            "drafters": [
                {"drafter": "d", "strategy": "s", "proposed": 6, "accepted": 0, "stale": 0, "refused": 0},
            ],
        }
    }


@pytest.mark.parametrize("usage", [False, True])
async def test_but_for_what_it_adds_the_stream_is_the_same(deploy: Deploy, usage: bool) -> None:
    deployment = await deploy(**HTTP)
    await deployment.verifier("v", accepted=(0, 1, 1))
    options = {"stream_options": {"include_usage": True}} if usage else {}

    def rest(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{key: chunk[key] for key in chunk if key not in ("id", "created", "paceline")} for chunk in chunks]

    asked_for = await streamed(deployment, **options)
    plain = await streamed(deployment, **options, paceline={"steps": False})
    assert rest(asked_for) == rest(plain)
    assert all("paceline" not in chunk for chunk in plain)


async def test_each_of_n_choices_has_its_own(deploy: Deploy) -> None:
    deployment = await deploy(**HTTP)
    await deployment.verifier("v", accepted=(0, 1))
    chunks = await streamed(deployment, n=2)
    for index in range(2):
        own = [chunk for chunk in chunks if chunk["choices"][0]["index"] == index]
        told = [token["id"] for chunk in own for token in chunk.get("paceline", {}).get("tokens", ())]
        assert told == answer(7 + index, 6)
        assert own[-1]["paceline"]["outcome"]["tokens"] == 6
        steps = [chunk["paceline"]["step"]["nodes"][0]["id"] for chunk in own if "step" in chunk.get("paceline", {})]
        assert steps == [token + 1 - place % 2 for place, token in enumerate(answer(7 + index, 6))]


async def test_a_completion_tells_likewise(deploy: Deploy) -> None:
    deployment = await deploy(**HTTP)
    await deployment.verifier("v")
    body = json.dumps({"model": "m", "prompt": "a prompt", "seed": 7, **STEPS}).encode()
    reply = await asked(deployment, "POST", "/v1/completions", body)
    *parts, end = chunks_of(reply.body)
    assert [chunk["paceline"]["tokens"][0]["id"] for chunk in parts] == answer(7, 6)
    assert all(chunk["paceline"]["step"]["rows"] == 9 for chunk in parts)
    assert end["paceline"]["outcome"]["tokens"] == 6
    body = json.dumps({"model": "m", "prompt": "a prompt", **STEPS, "stream": False}).encode()
    refused = (await asked(deployment, "POST", "/v1/completions", body)).error
    assert refused["param"] == "paceline.steps"


async def test_a_verifier_that_does_not_know_of_steps_answers_without(deploy: Deploy) -> None:
    deployment = await deploy(**HTTP)
    await deployment.verifier("v", protocol=(1, 4))
    _, *parts, end = await streamed(deployment)
    assert [chunk["paceline"]["step"] for chunk in parts] == [None] * 6
    assert [chunk["paceline"]["tokens"] for chunk in parts] == [
        [{"id": token, "bytes": None, "source": None}] for token in answer(7, 6)
    ]
    assert end["paceline"]["outcome"]["tokens"] == 6


async def test_steps_go_on_where_the_request_does(deploy: Deploy) -> None:
    deployment = await deploy(**HTTP)
    lost = await deployment.verifier("a", rows=1, fail_after_step_at=3)
    await deployment.verifier("b", rows=2)
    _, *parts, end = await streamed(deployment)
    assert [chunk["paceline"]["tokens"][0]["id"] for chunk in parts] == answer(7, 6)
    assert [chunk["paceline"]["step"]["rows"] for chunk in parts] == [1, 1, 1, 2, 2, 2]
    assert end["paceline"]["outcome"]["tokens"] == 6
    await eventually(lambda: lost.num_ended == 1)


def tokens(**fields: Any) -> generation_pb2.Tokens:
    return generation_pb2.Tokens(**{"ids": [4, 5], "sources": [0, 1], "source_names": ["d/s"], **fields})


NODE = generation_pb2.StepNode(id=5, parent=1)
STRANGER = generation_pb2.StepNode(id=5, sources=[2])


@pytest.mark.parametrize(
    ("wrong", "step"),
    [
        ({"sources": [0]}, None),
        ({"sources": [0, 2]}, None),
        ({"pieces": [b"a"]}, None),
        ({}, generation_pb2.Step(nodes=[NODE])),
        ({}, generation_pb2.Step(nodes=[STRANGER], source_names=["d/s"])),
    ],
    ids=["sources", "source", "pieces", "parent", "node's source"],
)
def test_what_no_verifier_should_say_is_an_error_of_its_own(
    wrong: dict[str, Any], step: generation_pb2.Step | None
) -> None:
    assert told_tokens(tokens(), None).step is None
    with pytest.raises(PacelineError) as caught:
        told_tokens(tokens(**wrong), step)
    assert caught.value.reason is Reason.INTERNAL


def test_numbers_that_json_has_not_are_null() -> None:
    told = told_outcome(generation_pb2.Outcome(verify_s=float("nan"), plain_s=float("inf")))
    outcome = json.loads(told.model_dump_json(exclude_unset=True))["outcome"]
    assert (outcome["verify_s"], outcome["plain_s"]) == (None, None)
